"""A web server on this machine that misbehaves on request, for tests of downloads.

Each file has a list of behaviours, one per request; the last one goes on for ever. What clients
asked for is kept.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any


@dataclass
class Hosted:
    """A file on the server, and how it is served."""

    body: bytes
    ways: list[str] = field(default_factory=lambda: ["good"])
    """``good``, or one of the handler's ``_way_`` methods, with an argument after a colon."""
    tag: str | None = '"v1"'
    ranges: bool = True


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]


class Server:
    """The server's files and what was asked of it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.files: dict[str, Hosted] = {}
        self.asked: list[Asked] = []
        self.lock = Lock()
        self.over = Event()

    def host(self, name: str, body: bytes, *ways: str, **facts: Any) -> str:
        """Put a file on the server and return its URL."""
        self.files[f"/{name}"] = Hosted(body, list(ways) or ["good"], **facts)
        return f"{self.url}/{name}"

    def host_folder(self, folder: Path, *ways: str, name: str = "corpus", **facts: Any) -> str:
        """Put all files of a folder on the server and return its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                relative = path.relative_to(folder).as_posix()
                self.host(f"{name}/{relative}", path.read_bytes(), *ways, **facts)
        return f"{self.url}/{name}/"

    def times(self, name: str) -> int:
        """Return how often a file was asked for."""
        return sum(asked.path.split("?")[0] == f"/{name}" for asked in self.asked)

    def ranges(self, name: str) -> list[str | None]:
        """Return the Range header of each request for a file."""
        return [a.headers.get("range") for a in self.asked if a.path.split("?")[0] == f"/{name}"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a file the way its list says."""
        state: Server = self.server.state
        hosted = state.files.get(self.path.split("?")[0])
        with state.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.asked.append(Asked(self.path, headers))
            way = "status:404"
            if hosted is not None:
                way = hosted.ways.pop(0) if len(hosted.ways) > 1 else hosted.ways[0]
        name, _, argument = way.partition(":")
        self.close_connection = True
        getattr(self, f"_way_{name}")(hosted or Hosted(b""), argument)

    def _start(self, hosted: Hosted) -> bytes:
        """Answer the range that is asked for and return the bytes to send."""
        asked = self._asked(hosted)
        return hosted.body if asked is None else hosted.body[asked]

    def _asked(self, hosted: Hosted) -> slice | None:
        """Return the range that is asked for and given; None where the whole file is."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, hosted.tag)
        if not (found and same and hosted.ranges):
            return None
        return slice(int(found[1]), len(hosted.body) if found[2] is None else int(found[2]) + 1)

    def _head(self, hosted: Hosted, body: bytes, *, length: int | None = None) -> None:
        asked, total = self._asked(hosted), len(hosted.body)
        closed = asked is not None and not (self.headers.get("Range") or "").endswith("-")
        if asked is not None and asked.start and not body:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
        elif asked is not None and (asked.start or closed):
            last = asked.start + len(body) - 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {asked.start}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if hosted.tag is not None:
            self.send_header("ETag", hosted.tag)
        self.end_headers()

    def _way_good(self, hosted: Hosted, _argument: str) -> None:
        body = self._start(hosted)
        self._head(hosted, body)
        self.wfile.write(body)

    def _way_cut(self, hosted: Hosted, argument: str) -> None:
        """Close the connection after some bytes."""
        body = self._start(hosted)
        self._head(hosted, body)
        self.wfile.write(body[: int(argument)])

    def _way_stall(self, hosted: Hosted, argument: str) -> None:
        """Send some bytes, then nothing, with the connection open."""
        body = self._start(hosted)
        self._head(hosted, body)
        self.wfile.write(body[: int(argument)])
        self.wfile.flush()
        self.server.state.over.wait(20)

    def _way_silent(self, _hosted: Hosted, _argument: str) -> None:
        """Never answer."""
        self.server.state.over.wait(20)

    def _way_drip(self, hosted: Hosted, _argument: str) -> None:
        """Send a byte now and then: a socket's own timeout never strikes."""
        body = self._start(hosted)
        self._head(hosted, body)
        for i in range(len(body)):
            if self.server.state.over.wait(0.1):
                return
            self.wfile.write(body[i : i + 1])

    def _way_dripping_head(self, _hosted: Hosted, _argument: str) -> None:
        """Never end the headers."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.state.over.wait(0.1):
            self.wfile.write(b"y")

    def _way_claim(self, hosted: Hosted, argument: str) -> None:
        """Claim a length that is not the file's, and close."""
        self._head(hosted, hosted.body, length=int(argument))
        self.wfile.write(hosted.body)

    def _way_wrong(self, hosted: Hosted, _argument: str) -> None:
        """Send as many bytes, one of them another."""
        body = self._start(hosted)
        self._head(hosted, body)
        self.wfile.write(body[:-1] + bytes([body[-1] ^ 1]))

    def _way_spoiled(self, hosted: Hosted, argument: str) -> None:
        """Send as many bytes, the one at a place of the file another."""
        at = int(argument)
        asked = self._asked(hosted)
        spoiled = hosted.body[:at] + bytes([hosted.body[at] ^ 1]) + hosted.body[at + 1 :]
        self._head(hosted, self._start(hosted))
        self.wfile.write(spoiled if asked is None else spoiled[asked])

    def _way_status(self, _hosted: Hosted, argument: str) -> None:
        self.send_response(int(argument))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _way_busy(self, _hosted: Hosted, argument: str) -> None:
        self.send_response(429)
        self.send_header("Retry-After", argument)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _way_redirect(self, _hosted: Hosted, argument: str) -> None:
        self.send_response(302)
        self.send_header("Location", argument)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _way_drop(self, _hosted: Hosted, _argument: str) -> None:
        """Hang up without an answer."""

    def _way_garbage(self, _hosted: Hosted, _argument: str) -> None:
        self.wfile.write(b"\x00\xff this is not HTTP\r\n\r\n")

    def _way_chunked(self, hosted: Hosted, argument: str) -> None:
        """Send chunks without a length; cut after some of them if so told."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        most = int(argument) if argument else len(hosted.body)
        for at in range(0, most, 1000):
            part = hosted.body[at : min(at + 1000, most)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        if not argument:
            self.wfile.write(b"0\r\n\r\n")

    def _way_endless(self, _hosted: Hosted, _argument: str) -> None:
        """Send chunks until the client hangs up."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not self.server.state.over.is_set():
                self.wfile.write(b"ffff\r\n" + bytes(0xFFFF) + b"\r\n")
        except OSError:
            return

    def _way_unframed(self, hosted: Hosted, _argument: str) -> None:
        """Neither length nor chunks: the end is where the connection ends."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(hosted.body)

    def _way_page(self, _hosted: Hosted, _argument: str) -> None:
        body = b"<html>please log in</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _way_coded(self, hosted: Hosted, _argument: str) -> None:
        """Name a content coding that was not asked for."""
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(hosted.body)))
        self.end_headers()
        self.wfile.write(hosted.body)

    def _way_shifted(self, hosted: Hosted, _argument: str) -> None:
        """Answer a range with another one, whatever was asked for."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 1-{len(hosted.body) - 1}/{len(hosted.body)}")
        self.send_header("Content-Length", str(len(hosted.body) - 1))
        self.end_headers()
        self.wfile.write(hosted.body[1:])


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up on purpose."""


@contextmanager
def serving() -> Iterator[Server]:
    """Give a running server; it is gone afterwards."""
    httpd: Any = _Quiet(("127.0.0.1", 0), _Handler)
    httpd.state = Server(httpd.server_address[1])
    thread = Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield httpd.state
    finally:
        httpd.state.over.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
