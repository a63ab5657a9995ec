"""One request to one webhook: to the address that was checked, by a deadline, without redirects, proxies or cookies."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from opensloth import __version__
from opensloth.webhooks.addresses import Target

if TYPE_CHECKING:
    import httpcore

TIMEOUT_S = 10.0
"""For everything: connecting, TLS, sending, and the answer."""
MOST_READ = 4096
_USER_AGENT = f"OpenSloth/{__version__} (webhooks)"
_LONGEST_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True)
class Answer:
    """How a request went; `status` is None where there was no answer."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float = 0.0
    """The least that the receiver asks to wait."""

    @property
    def arrived(self) -> bool:
        """Whether the receiver took it."""
        return self.error is None


def post(target: Target, body: str, headers: dict[str, str], timeout_s: float = TIMEOUT_S) -> Answer:
    """Post `body` to `target`. What the receiver answers beside its status is not kept: it may be anybody's secret."""
    import httpcore

    from opensloth.webhooks.pinned import PinnedBackend

    deadline = time.monotonic() + timeout_s
    url = httpcore.URL(
        scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
    )
    ours = {"User-Agent": _USER_AGENT, "Content-Type": "application/json", "Accept-Encoding": "identity"}
    sent = [*ours.items(), *headers.items()]
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=_certificates(),
                network_backend=PinnedBackend(target, deadline),
                max_keepalive_connections=0,
            ) as pool,
            pool.stream("POST", url, headers=sent, content=body.encode(), extensions={"timeout": timeouts}) as response,
        ):
            answer = _answer(response)
            _drain(response)
            return answer
    except httpcore.TimeoutException:
        return Answer(error=f"no answer within {timeout_s:g} s")
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as problem:
        return Answer(error=f"no connection: {problem or type(problem).__name__}"[:300])


def _answer(response: httpcore.Response) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer(status)
    told = {name.lower(): value for name, value in response.headers}.get(b"retry-after", b"")
    what = "; redirects are not followed" if 300 <= status < 400 else ""
    return Answer(status, f"the receiver answered with status {status}{what}", _wait_s(told))


def _wait_s(retry_after: bytes) -> float:
    """What `Retry-After` asks for: seconds, or until a date of HTTP; 0 for anything else."""
    try:
        text = retry_after.decode("ascii")
        wait = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), _LONGEST_RETRY_AFTER_S)


def _drain(response: httpcore.Response) -> None:
    """Read a little of the answer, as some receivers fail when nobody listens; its status is what counts."""
    import httpcore

    size = 0
    try:
        for piece in response.iter_stream():
            size += len(piece)
            if size > MOST_READ:
                return
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        return


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """The system's authorities, or those of SSL_CERT_FILE; made once, as reading them takes longer than a request."""
    return ssl.create_default_context()
