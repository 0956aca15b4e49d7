"""A small hub on this machine: the part of the Hugging Face hub's HTTP API that downloads need.

Two servers, as there are two on the network: one that knows repositories (`/api/models/...` and
`/OWNER/REPO/resolve/...`) and sends who wants a large file on to the other, which only has bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.http_server import Server

API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Request:
    """What a client asked for, and how many bytes of a body it was sent."""

    method: str
    path: str
    status: int
    range: str | None
    authorization: str | None
    sent: int = 0


@dataclass
class Hub:
    """What the hub has and how it behaves; all of it can be changed while it runs.

    Attributes:
        repos: contents by repository and file name.
        in_git: files kept in git itself, as small ones may be: no redirect, and git's SHA-1.
        tags: other names of what they have now.
        gated: repositories whose files need `token`.
        private: repositories that nobody without `token` hears of.
        refusals: answered before anything else, in turn: (status, headers).
        cuts: the connection is cut after so many bytes of a body, once for each number.
        sizes, hashes: announced instead of the true ones.
        delay: seconds before each `piece` bytes of a body.
        ranges: whether a part of a file can be asked for.
    """

    repos: dict[str, dict[str, bytes]]
    url: str = ""
    cdn: str = ""
    in_git: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_token"
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    piece: int = 1 << 16
    ranges: bool = True
    log: list[Request] = field(default_factory=list)

    @property
    def downloads(self) -> list[Request]:
        """The requests that were answered with bytes of files."""
        return [
            r for r in self.log if r.method == "GET" and not r.path.startswith("/api") and r.sent
        ]

    def commit(self, repo: str) -> str:
        """The repository's only commit."""
        digest = hashlib.sha1(repo.encode())
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def etag(self, name: str, content: bytes) -> str:
        """The hash that the hub announces for a file."""
        if name in self.in_git:
            return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return self.hashes.get(name) or hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.refusals:
            status, headers = self.hub.refusals.pop(0)
            self.answer(status, headers)
        elif match := API.fullmatch(path):
            self.describe(match[1])
        elif match := RESOLVE.fullmatch(path):
            self.resolve(match[1], match[2], match[3])
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def describe(self, repo: str) -> None:
        """The repository's files, as the hub's API lists them."""
        if self.refuse(repo, repo in self.hub.private, "RepoNotFound", "Repository not found"):
            return
        files = [{"rfilename": name} for name in self.hub.repos[repo]]
        info = {"id": repo, "modelId": repo, "sha": self.hub.commit(repo), "private": False}
        body = json.dumps({**info, "siblings": files, "tags": [], "downloads": 0, "likes": 0})
        self.answer(200, {"Content-Type": "application/json"}, body.encode())

    def resolve(self, repo: str, revision: str, name: str) -> None:
        """One file: sent from here if it is kept in git, else said where it is."""
        hub = self.hub
        if self.refuse(repo, repo in hub.private, "RepoNotFound", "Repository not found"):
            return
        if self.refuse(repo, repo in hub.gated, "GatedRepo", f"Access to {repo} is restricted."):
            return
        commit = hub.commit(repo)
        content = hub.repos[repo].get(name)
        if revision not in ("main", commit, *hub.tags) or content is None:
            code = "EntryNotFound" if content is None else "RevisionNotFound"
            self.answer(404, {"X-Error-Code": code, "X-Repo-Commit": commit})
            return
        etag = f'"{hub.etag(name, content)}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag}
        if name in hub.in_git:
            self.send(content, headers)
            return
        headers |= {
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(hub.sizes.get(name, len(content))),
            "ETag": f'"{commit}"',  # of the answer itself, and no concern of anybody's
            "Location": f"{hub.cdn}/{repo}/{name}",
        }
        self.answer(302, headers)

    def refuse(self, repo: str, closed: bool, code: str, message: str) -> bool:
        """Refuse what is not there, or is not for everybody; the hub makes no difference."""
        if repo in self.hub.repos and not closed:
            return False
        if repo in self.hub.repos and self.headers["Authorization"] == f"Bearer {self.hub.token}":
            return False
        body = json.dumps({"error": message}).encode()
        self.answer(401, {"X-Error-Code": code, "X-Error-Message": message}, body)
        return True

    def send(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the range of it that was asked for."""
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if match and self.hub.ranges:
            start = int(match[1])
            if start >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        self.answer(206 if match and self.hub.ranges else 200, headers, content[start:])

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Write an answer, slowly or only a part of it if the hub is to behave so."""
        request = Request(
            *(self.command, self.path, status, self.headers["Range"], self.headers["Authorization"])
        )
        self.hub.log.append(request)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        is_file = not self.path.startswith("/api") and status in (200, 206)
        end = self.hub.cuts.pop(0) if is_file and self.hub.cuts else len(body)
        for start in range(0, min(end, len(body)), self.hub.piece):
            if is_file:
                time.sleep(self.hub.delay)
            piece = body[start : min(start + self.hub.piece, end)]
            self.wfile.write(piece)
            request.sent += len(piece)
        self.close_connection = end < len(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class _Cdn(_Handler):
    def do_GET(self) -> None:
        _, owner, repo, name = unquote(urlsplit(self.path).path).split("/", 3)
        self.send(self.hub.repos[f"{owner}/{repo}"][name], {"ETag": '"of-the-cdn"'})


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Run the hub's two servers."""
    servers = []
    for handler in (_Handler, _Cdn):
        bound = type(handler.__name__, (handler,), {"hub": hub})
        server = Server(("127.0.0.1", 0), bound)
        # A client that was killed is no error of the server's.
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
