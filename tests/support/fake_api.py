"""An API for the client's tests: routes to functions, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Answer = httpx.Response | Exception
Handler = Callable[[httpx.Request], Answer]


class FakeApi:
    """Answers from a queue for each `METHOD /path`; the last answer of a queue stays."""

    def __init__(self) -> None:
        self.routes: dict[str, list[Any]] = {}
        self.requests: list[httpx.Request] = []

    def on(self, route: str, *answers: Any) -> None:
        """`answers`: a dict (JSON), a Response, an exception to raise, or a function of the request."""
        self.routes[route] = list(answers)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def seen(self, route: str) -> list[httpx.Request]:
        return [request for request in self.requests if f"{request.method} {request.url.path}" == route]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        queue = self.routes.get(f"{request.method} {request.url.path}")
        if not queue:
            return problem(404, "not_found", f"there is no {request.url.path}")
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(answer) and not isinstance(answer, type):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return httpx.Response(200, json=answer)
        assert isinstance(answer, httpx.Response)
        return answer


def problem(status: int, code: str, detail: str, **more: Any) -> httpx.Response:
    """An answer as the API gives for errors."""
    headers = {"content-type": "application/problem+json", **more.pop("headers", {})}
    return httpx.Response(status, content=json.dumps({"code": code, "detail": detail, **more}), headers=headers)


def job(state: str = "running", **more: Any) -> dict[str, Any]:
    return {"id": "ftjob-" + "a" * 24, "object": "job", "name": "tone", "state": state, "attempt": 1, **more}


def event(seq: int, kind: str = "log", **data: Any) -> dict[str, Any]:
    return {"object": "event", "job_id": job()["id"], "seq": seq, "attempt": 1, "type": kind, "level": "info",
            "time": "2026-11-22T10:00:00Z", "message": f"event {seq}", "data": data}  # fmt: skip


def sse(*events: dict[str, Any], cut: bytes = b"") -> httpx.Response:
    """A stream of events that then ends; `cut` is the beginning of one that does not arrive whole."""
    text = "".join(f": ping\n\nid: {e['seq']}\nevent: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    return httpx.Response(200, content=text.encode() + cut, headers={"content-type": "text/event-stream"})
