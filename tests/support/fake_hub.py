"""The hub's HTTP endpoint as far as pushes and pulls need it; tokens are checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Published:
    """A repository that can be read: the files of each revision, and who may."""

    revisions: dict[str, dict[str, bytes]]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a branch, a tag or a commit, and its files."""
        for name, files in self.revisions.items():
            commit = hashlib.sha1(json.dumps({p: c.hex() for p, c in files.items()}).encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


@dataclass
class FakeHub:
    """What was pushed: repositories with their settings, and the files of each after its commits; what can be read."""

    token: str
    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    published: dict[str, Published] = field(default_factory=dict)
    """By `datasets/org/name` or `models/org/name`."""
    downloads: list[str] = field(default_factory=list)
    """The files whose bytes were asked for."""
    open: threading.Event = field(default_factory=threading.Event)
    """Downloads wait as long as it is not set."""

    def publish(self, name: str, files: dict[str, bytes], **more: Any) -> Published:
        """Let `name` be read at `main`."""
        self.published[name] = Published({"main": files}, **more)
        return self.published[name]


@contextlib.contextmanager
def serve_hub(token: str) -> Iterator[FakeHub]:
    """A hub that knows one token."""
    hub = FakeHub(token)
    hub.open.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        """`/api/datasets/org/name[/revision/REV]`, or `/datasets/org/name/resolve/REV/PATH`; models have no prefix."""
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        asks_api = parts[0] == "api"
        parts = parts[1:] if asks_api else parts
        kind, *parts = parts if parts[0] in ("datasets", "models") else ["models", *parts]
        found = self.hub.published.get("/".join([kind, *parts[:2]]))
        knows_us = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if found is None or (found.private and not knows_us):
            # As the real one: without a token nobody learns what is there.
            self._refuse(404 if knows_us else 401, "RepoNotFound")
            return
        revision = parts[3] if len(parts) > 3 else "main"
        at = found.at(revision)
        if at is None:
            self._refuse(404, "RevisionNotFound")
        elif asks_api:
            siblings = [{"rfilename": path, "size": len(content)} for path, content in at[1].items()]
            name = "/".join(parts[:2])
            self._answer(200, {"id": name, "sha": at[0], "siblings": siblings, "cardData": found.card, "tags": []})
        elif found.gated and not knows_us:
            self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        else:
            self._file("/".join(parts[4:]), *at)

    def _file(self, path: str, commit: str, files: dict[str, bytes]) -> None:
        content = files.get(path)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        if self.command == "GET":
            self.hub.downloads.append(path)
            self.hub.open.wait()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} for {self.headers.get('Authorization', 'nobody')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        """An LFS object; it is kept only under its own hash."""
        body = self._body()
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(body).hexdigest() != oid:
            self._answer(400, {"error": "another hash"})
            return
        self.hub.blobs[oid] = body
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        self.hub.requests.append(self.path)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent != self.hub.token and not self.path.startswith("/api/validate-yaml"):
            # Some servers repeat what they were sent; nothing of it may get into a log.
            self._answer(401, {"error": f"Invalid credentials {sent}"})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": self.path})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, asked)
        self._answer(409 if known else 200, {"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in asked["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}}
            for entry in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        repository = "/".join(self.path.split("/")[3:5])
        files = self.hub.files.setdefault(repository, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = "0" * 40
        self._answer(200, {"commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "commitOid": oid})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
