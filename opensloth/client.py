"""The Python client: `Client().jobs.submit({...})`; it needs httpx and pydantic, nothing of the server.

from opensloth.client import Client

client = Client()
dataset = client.files.upload("rows.jsonl")
job = client.jobs.submit({"name": "tone", "dataset": dataset.id, "opensloth_config": {...}})
for event in client.jobs.follow(job.id):
    print(event.message)
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx

from opensloth.remote.chat import Chat
from opensloth.remote.credentials import credentials_path, find_credentials
from opensloth.remote.devices import Devices
from opensloth.remote.errors import (
    ClientError,
    Conflict,
    Field,
    InvalidRequest,
    NoCredentials,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    ServerFault,
    TransferCorrupt,
    Unavailable,
    Unreachable,
)
from opensloth.remote.files import Files
from opensloth.remote.jobs import Jobs
from opensloth.remote.keys import Keys
from opensloth.remote.models import Models
from opensloth.remote.pages import iterate
from opensloth.remote.people import Teams, Users
from opensloth.remote.queue import Queue
from opensloth.remote.rewards import Rewards
from opensloth.remote.secrets import Secrets
from opensloth.remote.shapes import (
    Artifact,
    AuditEntry,
    Checkpoint,
    Device,
    Estimate,
    Event,
    File,
    Job,
    Key,
    Me,
    Model,
    Reward,
    Secret,
    Series,
    Team,
    User,
)
from opensloth.remote.transport import Transport
from opensloth.remote.upload_cache import UploadCache
from opensloth.remote.webhooks import Webhooks

__all__ = [
    "Artifact",
    "AuditEntry",
    "Checkpoint",
    "Client",
    "ClientError",
    "Conflict",
    "Device",
    "Estimate",
    "Event",
    "Field",
    "File",
    "InvalidRequest",
    "Job",
    "Key",
    "Me",
    "Model",
    "NoCredentials",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "Reward",
    "Secret",
    "Series",
    "ServerFault",
    "Team",
    "TransferCorrupt",
    "Unavailable",
    "Unreachable",
    "User",
]


class Client:
    """One OpenSloth server.

    `base_url` and `api_key` come from the arguments, from OPENSLOTH_BASE_URL and OPENSLOTH_API_KEY, or from
    `$OPENSLOTH_HOME/credentials.json`, in this order; raises NoCredentials if none of them says. Every method raises
    ClientError with `code`, `message`, `hint`, `fields` and `status`. `http_transport` replaces the network in tests.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.credentials = find_credentials(base_url, api_key)
        self._transport = Transport(self.credentials, timeout_s=timeout_s, transport=http_transport)
        self.files = Files(self._transport, UploadCache(credentials_path().with_name("uploads.json")))
        self.jobs = Jobs(self._transport)
        self.models = Models(self._transport)
        self.chat = Chat(self._transport)
        self.queue = Queue(self._transport)
        self.rewards = Rewards(self._transport)
        self.devices = Devices(self._transport)
        self.keys = Keys(self._transport)
        self.secrets = Secrets(self._transport)
        self.users = Users(self._transport)
        self.teams = Teams(self._transport)
        self.webhooks = Webhooks(self._transport)

    @property
    def base_url(self) -> str:
        """The server's address, without a slash at its end."""
        return self.credentials.base_url

    def me(self) -> Me:
        """Who the key in use stands for, what it may do, and how far the quotas are used."""
        return Me(**self._transport.json("GET", "/v1/me"))

    def audit(self, limit: int | None = None, **filters: str | None) -> Iterator[AuditEntry]:
        """Who did what, newest first: all of it for an admin, one's own for others.

        `filters`: `actor`, `action` (`job` stands for all of jobs), `object_id`.
        """
        params = {name: value for name, value in filters.items() if value is not None}
        return iterate(self._transport, "/v1/audit", AuditEntry, limit=limit, params=params)

    def ready(self) -> dict[str, Any]:
        """What `/readyz` says; raises ClientError if the server is away or not ready."""
        return self._transport.json("GET", "/readyz")

    def gc(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Cleans the server's storage, or says what would go: `count`, `bytes`, `kinds` and `items`. For admins."""
        return self._transport.json("POST", "/v1/gc", json={"dry_run": dry_run}, timeout=3600.0)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        """The client, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self.close()
