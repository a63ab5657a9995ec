"""Signatures of Standard Webhooks (https://www.standardwebhooks.com), as `client.webhooks.unwrap` checks them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> str:
    """A secret: 256 random bits in base64 behind `whsec_`."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def hint_of(secret: str) -> str:
    """What may be shown of a secret, so that people can tell theirs apart."""
    return f"{PREFIX}...{secret[-5:]}"


def headers_of(delivery_id: str, timestamp: int, body: str, keys: Sequence[str]) -> dict[str, str]:
    """The three headers; with several secrets (after a rotation) there is a signature by each."""
    content = f"{delivery_id}.{timestamp}.{body}".encode()
    signatures = [hmac.new(base64.b64decode(key.removeprefix(PREFIX)), content, hashlib.sha256) for key in keys]
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(made.digest()).decode()}" for made in signatures),
    }
