"""The Hugging Face hub, or the one that HF_ENDPOINT names, as far as fetching from it goes; no code is ever run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from opensloth.errors import OpenSlothError

Kind = Literal["dataset", "model"]
T = TypeVar("T")

PUBLIC_HUB = "https://huggingface.co"
_TIMEOUT_S = 30.0
_PAUSES_S = (0.5, 2.0)
"""Waits before a request that found no answer is sent again."""
_PASSING = (408, 429, 500, 502, 503, 504)


class HubFailed(OpenSlothError):
    """The hub does not give what was asked for; `error_code` is the reason of a job that needs it."""

    code = "hub_unavailable"


@dataclass(frozen=True)
class Repository:
    """One commit of a repository: its files with their sizes in bytes, and the head of its card."""

    id: str
    kind: Kind
    commit: str
    files: dict[str, int]
    card: dict[str, Any]


def prepare_hub() -> None:
    """To be called before huggingface_hub is imported; a hub of one's own is spoken to by plain LFS."""
    if not os.environ.get("HF_ENDPOINT"):
        os.environ.pop("HF_ENDPOINT", None)  # huggingface_hub takes an empty one for an address
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if os.environ.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/") != PUBLIC_HUB:
        os.environ["HF_HUB_DISABLE_XET"] = "1"


class Hub:
    """Reads repositories, with a token where one is given; every failure is a HubFailed without the token in it."""

    def __init__(self, token: str | None = None) -> None:
        prepare_hub()
        from huggingface_hub import HfApi

        self._token = token
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token or False)

    def repository(self, kind: Kind, name: str, revision: str | None) -> Repository:
        """The newest commit of a revision (a branch, a tag or a commit; the default branch for None)."""
        ask = self._api.dataset_info if kind == "dataset" else self._api.model_info
        what = f"the {kind} {name}" + (f" at {revision}" if revision else "")
        found: Any = self._call(
            kind, what, lambda: ask(name, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        )
        files = {entry.rfilename: int(entry.size or 0) for entry in found.siblings or [] if _is_plain(entry.rfilename)}
        card = found.card_data.to_dict() if found.card_data is not None else {}
        return Repository(name, kind, str(found.sha), files, card)

    def fetch(self, repository: Repository, path: str, folder: Path | None) -> Path:
        """One file of the repository, in `folder` under its own path, or in this host's cache of the hub for None."""

        def download() -> str:
            from huggingface_hub import hf_hub_download

            return hf_hub_download(
                repository.id,
                path,
                repo_type=repository.kind,
                revision=repository.commit,
                endpoint=self._api.endpoint,
                token=self._token or False,
                local_dir=folder,
            )

        return Path(self._call(repository.kind, f"{path} of the {repository.kind} {repository.id}", download))

    def require_access(self, repository: Repository, path: str) -> None:
        """Raise HubFailed unless the hub gives a file to this token: what is in this host's cache may be another's."""
        from huggingface_hub import hf_hub_url

        place = {"repo_type": repository.kind, "revision": repository.commit, "endpoint": self._api.endpoint}
        url, token = hf_hub_url(repository.id, path, **place), self._token or False
        what = f"{path} of the {repository.kind} {repository.id}"
        self._call(
            repository.kind, what, lambda: self._api.get_hf_file_metadata(url=url, token=token, timeout=_TIMEOUT_S)
        )

    def _call(self, kind: Kind, what: str, call: Callable[[], T]) -> T:
        for pause in (*_PAUSES_S, None):
            try:
                return call()
            except Exception as error:
                failure = self._failure(kind, what, error)
                if failure is None:
                    raise
                if pause is None or failure.error_code != "hub_unavailable":
                    raise failure from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _failure(self, kind: Kind, what: str, error: BaseException) -> HubFailed | None:
        """What an exception of huggingface_hub means; None for one that is not the hub's."""
        from huggingface_hub import errors

        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            # A download says only that there is no copy here, and keeps to itself why none came.
            error = error.__cause__
        status = getattr(getattr(error, "response", None), "status_code", None)
        who = "with the token of that secret" if self._token else "without a token"
        if isinstance(error, errors.GatedRepoError) or status == 403:
            return HubFailed(
                f"the hub does not give {what} {who}: it is gated, and its conditions must be accepted there first",
                code="hub_refused",
                hint=None if self._token else "store a token with `opensloth secrets set` and name it as secrets.hub",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return HubFailed(f"the hub has no such revision: {what}", code=f"{kind}_not_found")
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
            hint = "look at its name" + ("" if self._token else "; a private one needs a token, as secrets.hub")
            return HubFailed(
                f"the hub has nothing there, or does not show it {who}: {what}", code=f"{kind}_not_found", hint=hint
            )
        if isinstance(error, errors.HFValidationError):
            return HubFailed(f"the hub knows no such name: {what}", code=f"{kind}_not_found")
        if status is not None:
            code = "hub_unavailable" if status in _PASSING else "hub_refused"
            return HubFailed(f"the hub answered {status} when asked for {what}", code=code)
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            return None  # a full disk and the like
        from_network = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "huggingface_hub")
        if not from_network and not isinstance(error, ConnectionError | TimeoutError):
            return None
        where = self._api.endpoint
        return HubFailed(
            f"the hub at {where} cannot be reached for {what} ({type(error).__name__})",
            hint="submit it again when the hub answers; where a host has no network, upload the data or name a folder",
        )


def _is_plain(path: str) -> bool:
    """Whether a file's path stays in its folder; names come from the network."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path
