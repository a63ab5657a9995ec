"""Which server to talk to and with which key: arguments, then environment, then `$OPENSLOTH_HOME/credentials.json`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from opensloth.remote.errors import NoCredentials

DEFAULT_URL = "http://127.0.0.1:8400"
NEXT_STEP = "`opensloth up` starts a server here and writes a key; `opensloth login URL` stores one for another server."


@dataclass(frozen=True)
class Credentials:
    """An address and the key for it."""

    base_url: str
    api_key: str


def home() -> Path:
    """`$OPENSLOTH_HOME`, by default `~/.opensloth`."""
    return Path(os.environ.get("OPENSLOTH_HOME") or Path.home() / ".opensloth").expanduser()


def credentials_path() -> Path:
    """Where `opensloth up` and `opensloth login` keep address and key."""
    return home() / "credentials.json"


def read_credentials(path: Path) -> Credentials | None:
    """What is stored at `path`, None if nothing is; raises NoCredentials if the file cannot be understood."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Credentials(base_url=str(stored["base_url"]).rstrip("/"), api_key=str(stored["api_key"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise NoCredentials(
            f"{path} cannot be read: {problem}.", code="bad_credentials_file", hint=f"Remove it; {NEXT_STEP}"
        ) from problem


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Writes the file at once or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    text = json.dumps({"base_url": credentials.base_url, "api_key": credentials.api_key}, indent=2) + "\n"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def find_credentials(base_url: str | None = None, api_key: str | None = None) -> Credentials:
    """The credentials in force; raises NoCredentials with what to do.

    A stored key is sent to the server it was stored for and to no other.
    """
    url = (base_url or os.environ.get("OPENSLOTH_BASE_URL") or "").rstrip("/")
    key = api_key or os.environ.get("OPENSLOTH_API_KEY") or ""
    if url and key:
        return Credentials(url, key)
    stored = read_credentials(credentials_path())
    if stored is None:
        if key:
            return Credentials(DEFAULT_URL, key)
        missing = f"There is no key for {url}" if url else "No server is known here"
        raise NoCredentials(f"{missing}: {credentials_path()} does not exist.", code="no_credentials", hint=NEXT_STEP)
    if key:
        return Credentials(stored.base_url, key)
    if url and not same_server(url, stored.base_url):
        raise NoCredentials(
            f"The stored key is for {stored.base_url}, not for {url}.",
            code="no_credentials",
            hint="Set OPENSLOTH_API_KEY, or store a key with `opensloth login URL`.",
        )
    return Credentials(url or stored.base_url, stored.api_key)


def same_server(one: str, other: str) -> bool:
    """Whether two URLs name the same scheme, host and port."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return (
        parts.scheme,
        "127.0.0.1" if host == "localhost" else host,
        parts.port or (443 if parts.scheme == "https" else 80),
    )
