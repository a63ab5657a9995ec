"""`client.models`: base models and results on the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

from opensloth.remote.errors import ClientError
from opensloth.remote.pages import iterate
from opensloth.remote.shapes import Model
from opensloth.remote.transport import Transport


class Models:
    """Everything under `/v1/models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Iterator[Model]:
        """Base models and results, through all pages."""
        return iterate(self._transport, "/v1/models", Model, limit=limit)

    def get(self, model_id: str) -> Model:
        """One model; raises NotFound."""
        return Model(**self._transport.json("GET", f"/v1/models/{quote(model_id)}"))

    def add(self, model_id: str, source: str | None = None, *, secret: str | None = None) -> Model:
        """Registers a base model (admins): a name that the server knows, a hub id, a directory or a GGUF file there.

        `secret` names a stored token for a gated model of the hub.
        """
        given = {"id": model_id, "source": source, "secret": secret}
        body = {name: value for name, value in given.items() if value is not None}
        return Model(**self._transport.json("POST", "/v1/models", json=body))

    def alias(self, name: str, model: str) -> Model:
        """Lets `name` stand for a registered model or one of the hub (admins); another model replaces it."""
        return Model(**self._transport.json("POST", "/v1/models", json={"id": name, "alias_of": model}))

    def wait_ready(
        self,
        model_id: str,
        *,
        timeout_s: float = 3600.0,
        poll_s: float = 1.0,
        on_poll: Callable[[Model], None] | None = None,
    ) -> Model:
        """Waits until a model can be trained on; raises ClientError if its import fails or takes longer."""
        give_up = time.monotonic() + timeout_s
        while True:
            model = self.get(model_id)
            if on_poll is not None:
                on_poll(model)
            if model.status in {"ready", None}:
                return model
            if model.status == "failed":
                raise ClientError(f"{model_id} could not be imported: {_why(model)}", code="model_import_failed")
            if time.monotonic() > give_up:
                raise ClientError(f"{model_id} is still being imported after {timeout_s:.0f} s.", code="timeout")
            time.sleep(poll_s)

    def delete(self, model_id: str) -> None:
        """Deletes a model; raises Conflict if a job uses it."""
        self._transport.request("DELETE", f"/v1/models/{quote(model_id)}")


def _why(model: Model) -> str:
    if isinstance(model.error, dict):
        return str(model.error.get("message") or model.error)
    return str(model.error or "the server does not say why")
