"""Remotes on this machine for tests of `stbuild push`: a hub of data sets and a Zenodo.

Each keeps what strangers see apart from what was only sent, counts its requests, and can be told
to fail at a request: before it takes effect, or after.
"""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "canary_K7f3kQz91"
PAGE = 10
"""Entries of a page of the hub's listings."""
PART = 40_000
"""Bytes of a part of a large file at the hub; larger files come in parts."""


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    authorization: str | None
    size: int


@dataclass
class Remote:
    """What a remote holds and how it misbehaves."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    ways: dict[int, str] = field(default_factory=dict)
    """Way of the n-th request: a status, ``reset``, ``deaf`` (done, but no answer), ``page``."""
    always: str | None = None
    at_request: Callable[[int, str], None] = lambda _n, _when: None
    """Called before, during and after each request: before its body, in its midst, when done."""
    lock: RLock = field(default_factory=RLock)
    # the hub
    repos: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    """Commits of each repository: (commit, files)."""
    large: set[str] = field(default_factory=set)
    """Paths that are stored as large files."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    verify_at: str | None = None
    """Other place to which the hub sends a client for the verification."""
    ignored: set[str] = field(default_factory=set)
    # Zenodo
    depositions: dict[int, dict[str, Any]] = field(default_factory=dict)
    buckets: dict[int, dict[str, bytes]] = field(default_factory=dict)
    spoil: bool = False
    """Whether uploads lose a bit on their way."""

    def seen(self, repo: str) -> dict[str, bytes]:
        """What a stranger gets from the hub."""
        return self.repos[repo][-1][1] if repo in self.repos else {}

    def records(self) -> list[int]:
        """What a stranger gets from Zenodo."""
        return [number for number, d in self.depositions.items() if d["submitted"]]

    def wrote(self) -> list[Asked]:
        """Requests that write."""
        return [a for a in self.asked if a.method != "GET" and "/paths-info/" not in a.path]

    def uploads(self) -> list[Asked]:
        """Requests that carry files."""
        return [a for a in self.asked if a.method == "PUT" and "/depositions/" not in a.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    remote: Remote

    def handle_any(self) -> None:
        remote = self.remote
        with remote.lock:
            n = len(remote.asked)
            length = int(self.headers.get("Content-Length") or 0)
            token = self.headers.get("Authorization")
            remote.asked.append(Asked(self.command, self.path, token, length))
            way = remote.ways.get(n, remote.always)
        remote.at_request(n, "before")
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        else:
            body = self.rfile.read(length // 2)
            remote.at_request(n, "during")
            body += self.rfile.read(length - length // 2)
        if len(body) < length:
            self.close_connection = True
            return
        if way == "reset":
            self._hang_up()
        elif way == "page":
            self._reply(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
        elif way and way.isdecimal():
            more = {"Retry-After": "0"} if way == "429" else {}
            self._reply(int(way), b'{"message": "busy"}', more)
        else:
            with remote.lock:
                status, value, more = self.answer(body)
            remote.at_request(n, "after")
            if way == "deaf":
                self._hang_up()
            else:
                self._reply(status, b"" if value is None else json.dumps(value).encode(), more)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the base's names

    def answer(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        raise NotImplementedError

    def _chunks(self) -> bytes:
        out = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def _hang_up(self) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _reply(self, status: int, raw: bytes, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def blob_id(raw: bytes) -> str:
    return hashlib.sha1(f"blob {len(raw)}\0".encode() + raw).hexdigest()


class _HubHandler(_Handler):
    def answer(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        path, remote = urlsplit(self.path).path, self.remote
        if path.startswith("/store/"):
            return self._store(path, body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}, {}
        for pattern, act in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _f, _b: (200, {"errors": [], "warnings": []}, {})),
            (r"/api/datasets/([^/]+/[^/]+)(?:/revision/\w+)?", self._info),
            (r"/api/datasets/([^/]+/[^/]+)/tree/(\w+)", self._tree),
            (r"/api/datasets/([^/]+/[^/]+)/preupload/\w+", self._preupload),
            (r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/api/datasets/([^/]+/[^/]+)/commit/\w+", self._commit),
            (r"/verify", lambda _f, b: (200 if json.loads(b)["oid"] in remote.blobs else 404,
                                        {}, {})),
        ):  # fmt: skip
            if found := re.fullmatch(pattern, path):
                if found.groups() and found[1] not in remote.repos:
                    return 404, {"error": "Not found"}, {"X-Error-Code": "RepoNotFound"}
                return act(found, body)
        return 404, {"error": f"no {path}"}, {}

    def _create(self, _found: Any, body: bytes) -> tuple[int, Any, dict[str, str]]:
        told = json.loads(body)
        name = f"{told['organization']}/{told['name']}"
        url = f"{self.remote.url}/datasets/{name}"
        if name in self.remote.repos:
            return 409, {"error": "You already created this dataset repo", "url": url}, {}
        self.remote.repos[name] = [("0" * 39 + "1", {".gitattributes": b"*.tar filter=lfs\n"})]
        return 200, {"url": url, "name": name}, {}

    def _info(self, found: Any, _body: bytes) -> tuple[int, Any, dict[str, str]]:
        commit, files = self.remote.repos[found[1]][-1]
        names = [{"rfilename": name} for name in files]
        return 200, {"id": found[1], "sha": commit, "siblings": names, "tags": []}, {}

    def _tree(self, found: Any, _body: bytes) -> tuple[int, Any, dict[str, str]]:
        commits = dict(self.remote.repos[found[1]])
        if found[2] not in commits:
            return 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"}
        rows: list[dict[str, Any]] = []
        for path, raw in sorted(commits[found[2]].items()):
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(raw)}
            row["oid"] = blob_id(raw)
            if path in self.remote.large:
                sha = hashlib.sha256(raw).hexdigest()
                row |= {"oid": "e" * 40, "lfs": {"oid": sha, "size": len(raw), "pointerSize": 130}}
            rows.append(row)
        rows.append({"type": "directory", "path": "data", "oid": "d" * 40, "size": 0})
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("cursor", ["0"])[0])
        link = f"{self.remote.url}{urlsplit(self.path).path}?recursive=True&cursor={start + PAGE}"
        more = {"Link": f'<{link}>; rel="next"'} if len(rows) > start + PAGE else {}
        return 200, rows[start : start + PAGE], more

    def _preupload(self, found: Any, body: bytes) -> tuple[int, Any, dict[str, str]]:
        head, files = self.remote.seen(found[1]), []
        for file in json.loads(body)["files"]:
            is_large = file["path"].endswith((".tar", ".parquet", ".png"))
            held = head.get(file["path"])
            files.append({
                "path": file["path"], "uploadMode": "lfs" if is_large else "regular",
                "shouldIgnore": file["path"] in self.remote.ignored,
                "oid": blob_id(held) if held is not None and not is_large else None,
            })  # fmt: skip
        return 200, {"files": files}, {}

    def _batch(self, _found: Any, body: bytes) -> tuple[int, Any, dict[str, str]]:
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            store = f"{self.remote.url}/store/{item['oid']}"
            verify = {"href": self.remote.verify_at or f"{self.remote.url}/verify"}
            if item["oid"] not in self.remote.blobs:
                upload: dict[str, Any] = {"href": f"{store}?X-Amz-Signature=abc"}
                if item["size"] > PART:
                    n = -(-item["size"] // PART)
                    parts = {
                        f"{i:05d}": f"{store}/{i}?X-Amz-Signature=abc" for i in range(1, n + 1)
                    }
                    upload = {"href": f"{store}/done", "header": {"chunk_size": str(PART), **parts}}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _store(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """The object store: it checks nothing but the signature in the URL."""
        _, _, oid, *rest = path.split("/")
        if rest == ["done"]:
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            body = b"".join(self.remote.parts[oid, number] for number in numbers)
        elif rest:
            self.remote.parts[oid, int(rest[0])] = body
            return 200, None, {"ETag": f'"{rest[0]}"'}
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "digest"}, {}
        self.remote.blobs[oid] = body
        return 200, None, {}

    def _commit(self, found: Any, body: bytes) -> tuple[int, Any, dict[str, str]]:
        remote = self.remote
        head, files = remote.repos[found[1]][-1]
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, head):
                return 412, {"error": "A commit has happened since"}, {}
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                remote.large.discard(value["path"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in remote.blobs:
                    return 400, {"error": f"no object {value['oid']}"}, {}
                files[value["path"]] = remote.blobs[value["oid"]]
                remote.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode() + head.encode()).hexdigest()
        remote.repos[found[1]].append((commit, files))
        url = f"{remote.url}/datasets/{found[1]}/commit/{commit}"
        return 200, {"success": True, "commitOid": commit, "commitUrl": url}, {}


class _ZenodoHandler(_Handler):
    def answer(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"status": 401, "message": "The server could not verify you"}, {}
        if found := re.fullmatch(r"/api/files/b(\d+)/(.+)", path):
            return self._bucket(int(found[1]), found[2], body)
        if path == "/api/deposit/depositions":
            return self._create(body) if self.command == "POST" else self._all()
        found = re.fullmatch(r"/api/deposit/depositions/(\d+)(/.*)?", path)
        if found is None or int(found[1]) not in self.remote.depositions:
            return 404, {"status": 404, "message": "PID does not exist."}, {}
        return self._one(int(found[1]), found[2] or "")

    def _all(self) -> tuple[int, Any, dict[str, str]]:
        query = parse_qs(urlsplit(self.path).query)
        size, page = int(query["size"][0]), int(query["page"][0])
        rows = sorted(self.remote.depositions.values(), key=lambda d: -d["id"])
        return 200, rows[(page - 1) * size : page * size], {}

    def _create(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        number = 100 + len(self.remote.depositions)
        base = f"{self.remote.url}/api/deposit/depositions/{number}"
        self.remote.depositions[number] = {
            "id": number, "state": "unsubmitted", "submitted": False,
            "metadata": json.loads(body).get("metadata", {}),
            "links": {"bucket": f"{self.remote.url}/api/files/b{number}", "self": base,
                      "html": f"{self.remote.url}/deposit/{number}",
                      "publish": f"{base}/actions/publish"},
        }  # fmt: skip
        self.remote.buckets[number] = {}
        return 201, self.remote.depositions[number], {}

    def _one(self, number: int, rest: str) -> tuple[int, Any, dict[str, str]]:
        deposition, files = self.remote.depositions[number], self.remote.buckets[number]
        if rest == "/files":
            rows = [
                {"id": f"f-{blob_id(name.encode())}", "filename": name, "filesize": len(raw),
                 "checksum": hashlib.md5(raw).hexdigest()}
                for name, raw in files.items()
            ]  # fmt: skip
            return 200, rows, {}
        if rest.startswith("/files/") and self.command == "DELETE":
            for name in [n for n in files if rest.endswith(f"f-{blob_id(n.encode())}")]:
                del files[name]
            return 204, None, {}
        if rest == "/actions/publish":
            if not deposition["metadata"].get("creators") or not files:
                errors = [{"field": "metadata.creators", "message": "Missing data for required"}]
                said = {"status": 400, "message": "Validation error.", "errors": errors}
                return 400, said, {}
            if deposition["submitted"]:
                return 400, {"status": 400, "message": "already published"}, {}
            deposition |= {"submitted": True, "state": "done"}
            deposition["links"]["record_html"] = f"{self.remote.url}/record/{number}"
            return 202, deposition, {}
        return 200, deposition, {}

    def _bucket(self, number: int, key: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if self.remote.depositions[number]["submitted"]:
            return 403, {"status": 403, "message": "Bucket is locked for modification."}, {}
        if self.remote.spoil:
            body = body[:-1] + b"?"
        self.remote.buckets[number][key] = body
        md5 = hashlib.md5(body).hexdigest()
        return 201, {"key": key, "size": len(body), "checksum": f"md5:{md5}"}, {}


@contextmanager
def serve_hub() -> Iterator[Remote]:
    """Run a hub as long as this lasts."""
    yield from _serve(_HubHandler)


@contextmanager
def serve_zenodo() -> Iterator[Remote]:
    """Run a Zenodo as long as this lasts."""
    yield from _serve(_ZenodoHandler)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed on purpose."""


def _serve(handler: type[_Handler]) -> Iterator[Remote]:
    server = _Quiet(("127.0.0.1", 0), handler)
    remote = Remote(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("_Mine", (handler,), {"remote": remote})
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield remote
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
