"""A hub of models on this machine: enough of its interface to push a model and to fetch it."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = "a" * 40
"""The one commit of every model."""


class Hub:
    """Models by name, each with its files."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.models: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/\w+", path):
            files = self.hub.models.get(found[1], {})
            self._json([{"type": "file", "path": n, "size": len(b), "oid": sha1(b).hexdigest()}
                        for n, b in files.items()])  # fmt: skip
        elif (found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/\w+)?", path)) and found[
            1
        ] in self.hub.models:
            names = [{"rfilename": name} for name in self.hub.models[found[1]]]
            self._json({"id": found[1], "sha": SHA, "siblings": names})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/(.+)", path):
            self._file(self.hub.models.get(found[1], {}).get(found[2]))
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            self.hub.models.setdefault(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    raw = base64.b64decode(value["content"])
                    self.hub.models[found[1]][value["path"]] = raw
            url = f"{self.hub.url}/{found[1]}/commit/{SHA}"
            self._json({"success": True, "commitOid": SHA, "commitUrl": url})
        else:
            self._json({}, 404)

    def _json(self, value: object, code: int = 200, more: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), code, more or {})

    def _file(self, raw: bytes | None) -> None:
        if raw is None:
            self._json({}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        tag = f'"{sha1(raw).hexdigest()}"'
        self._send(raw, 200, {"ETag": tag, "X-Repo-Commit": SHA})

    def _send(self, raw: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub as long as this lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(server.server_address[1])
    server.RequestHandlerClass = type("_Mine", (_Handler,), {"hub": hub})
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
