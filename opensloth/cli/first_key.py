"""The admin key that `opensloth up` leaves in `credentials.json` on the first start."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from opensloth.cli.parts import BOOTSTRAP
from opensloth.client import Client, ClientError, NotAuthenticated
from opensloth.remote.credentials import Credentials, read_credentials, write_credentials


class BootstrapFailed(Exception):
    """No key could be made; the text is what the program said."""


def make_key(env: Mapping[str, str], home: Path, *, further: bool) -> str | None:
    """An admin key if the database has none yet, or a `further` one; else None."""
    command = (*BOOTSTRAP, "--new") if further else BOOTSTRAP
    # No limit of time: it may be killed after its commit, and then the only key is one that nobody saw.
    done = subprocess.run(command, env=dict(env), cwd=home, capture_output=True, text=True, start_new_session=True)
    if done.returncode != 0:
        raise BootstrapFailed(done.stderr.strip())
    return done.stdout.strip() or None


def store_key(path: Path, url: str, key: str) -> Path | None:
    """Writes address and key; returns where credentials that were there before are kept, if there were any."""
    previous = None
    if path.exists():
        previous = path.with_name("credentials.previous.json")
        path.replace(previous)
    write_credentials(path, Credentials(url, key))
    return previous


def check_stored(path: Path, url: str) -> str | None:
    """Sees that the stored key works at `url`, and mends the stored address; returns what to tell the user."""
    stored = read_credentials(path)
    renew = "`opensloth up --new-key` makes a new admin key and writes it there."
    if stored is None:
        return f"{path} is gone, and a key is shown only once. {renew}"
    try:
        with Client(url, stored.api_key) as client:
            next(client.models.list(limit=1), None)
    except NotAuthenticated:
        return f"{path} holds a key for {stored.base_url}, which this server does not know. {renew}"
    except ClientError as problem:
        return f"The key in {path} could not be tried: {problem.message}"
    if stored.base_url == url:
        return None
    write_credentials(path, Credentials(url, stored.api_key))
    return f"The address in {path} is now {url} (it was {stored.base_url})."
