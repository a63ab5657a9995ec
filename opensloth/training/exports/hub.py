"""Pushes a finished export to a repository of the hub that HF_ENDPOINT names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from opensloth.hub import prepare_hub
from opensloth.training.exports.failures import ExportFailed
from opensloth.training.exports.spec import PushTarget

_REFUSED = (400, 401, 403, 404, 409, 422)


class Push:
    """One push: the repository is made first, so that a wrong token fails before hours of work."""

    def __init__(self, target: PushTarget, token: str) -> None:
        prepare_hub()
        from huggingface_hub import HfApi

        self._target = target
        self._hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)

    def make_repository(self) -> None:
        """Makes the repository if it is not there. Raises ExportFailed."""
        self._call(
            "made", self._hub.create_repo, repo_id=self._target.repo, private=self._target.private, exist_ok=True
        )

    def upload(self, folder: Path, message: str) -> str:
        """Commits the files of `folder` and returns the commit's address. Raises ExportFailed."""
        commit = self._call(
            "written", self._hub.upload_folder, repo_id=self._target.repo, folder_path=folder, commit_message=message
        )
        return str(commit.commit_url)

    def _call(self, what: str, call: Any, **arguments: Any) -> Any:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return call(**arguments)
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise _failed(self._target.repo, what, status, str(error)) from error
        except (OSError, RuntimeError) as error:
            cause = error.__cause__
            response = cause.response if isinstance(cause, HfHubHTTPError) else None
            status = response.status_code if response is not None else 0
            raise _failed(self._target.repo, what, status, str(cause or error)) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
                raise
            raise _failed(self._target.repo, what, 0, str(error)) from error


def _failed(repo: str, what: str, status: int, text: str) -> ExportFailed:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    code = "push_refused" if status in _REFUSED else "hub_unavailable"
    answer = f"the hub answered {status}" if status else "the hub cannot be reached"
    return ExportFailed(f"the repository {repo} could not be {what}: {answer}: {lines[0] if lines else ''}", code=code)
