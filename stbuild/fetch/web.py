"""Files over HTTPS: ranges, validators, redirects, proxies.

No credentials are ever sent: no netrc, no cookies, no user names in URLs. Redirects are followed
by hand, so that each is checked; only a proxy that the user's environment names sees more.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3Timeout
from urllib3.util import parse_url

from stbuild.corpus.errors import BadInputError, RemoteError
from stbuild.corpus.transient import TransientError
from stbuild.corpus.urls import is_loopback, refuse_redirect, show_url
from stbuild.fetch.errors import StaleError, StoppedError, file_problem
from stbuild.fetch.transport import BLOCK, Options, Reply, Request
from stbuild.fetch.watch import Watch, watch_here

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 8
_PASSING: Final = frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""Answers that may be another one the next time."""
_LONGEST_WAIT: Final = 60.0

Response = urllib3.BaseHTTPResponse


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        watch_here(self.sock)


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        watch_here(self.sock)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


@contextmanager
def open_web(request: Request, options: Options) -> Iterator[Reply]:
    """Ask a web server for a file from an offset on.

    Raises
    ------
    RemoteError
        An answer that will not change: not found, forbidden, a bad certificate.
    BadInputError
        A redirect that is not followed.
    TransientError
        Anything else.
    """
    with Watch(options.stall, options.stop) as watch:
        with _explained(request.url, watch, options):
            response = _ask(request, options, watch)
        try:
            yield _to_reply(request, response, _blocks(request.url, response, watch, options))
        finally:
            response.close()


@contextmanager
def _explained(url: str, watch: Watch, options: Options) -> Iterator[None]:
    """Turn errors of the network, and only those, into what they mean for the download."""
    try:
        yield
    except (HTTPError, OSError, UnicodeError) as error:
        if options.stop.is_set():
            raise StoppedError from None
        raise _explain(url, error, watch, options) from None


def _blocks(url: str, response: Response, watch: Watch, options: Options) -> Iterator[bytes]:
    while True:
        with _explained(url, watch, options):
            # read1 gives what has come; read would wait for a full block, however it drips.
            block = response.read1(BLOCK)
        if watch.has_hung_up:
            raise StoppedError if options.stop.is_set() else TransientError(_stalled(options))
        if not block:
            return
        watch.feed(len(block))
        yield block


def _ask(request: Request, options: Options, watch: Watch) -> Response:
    """Follow allowed redirects to an answer that gives bytes."""
    url, headers = request.url, _headers(request)
    timeout = urllib3.Timeout(connect=options.stall, read=options.stall)
    for _ in range(_MOST_REDIRECTS + 1):
        with _manager(url) as manager:
            response: Response = manager.request(
                "GET", url, headers=headers, timeout=timeout, redirect=False, retries=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
        watch.feed(BLOCK)
        if response.status not in _REDIRECTS:
            return _checked(url, response)
        target = urljoin(url, response.headers.get("Location") or "")
        response.close()
        if reason := refuse_redirect(url, target, options.hosts):
            raise _bad_redirect(request.url, target, reason)
        url = target
    what = f"more than {_MOST_REDIRECTS} redirects"
    raise _for_good(request.url, what, "write the URL that they end at into the sheet")


def _headers(request: Request) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "stbuild-fetch"}
    if request.offset:
        headers["Range"] = f"bytes={request.offset}-"
        if request.tag is not None:
            headers["If-Range"] = request.tag
    return headers


def _manager(url: str) -> urllib3.PoolManager:
    """Return a fresh manager, through the proxy that the environment names for the URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    manager: urllib3.PoolManager
    if not proxy or is_loopback(host) or proxy_bypass(host):
        manager = urllib3.PoolManager()
    else:
        manager = _through(proxy if "://" in proxy else f"http://{proxy}")
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager


def _through(proxy: str) -> urllib3.PoolManager:
    """Return a manager for the user's proxy, which alone gets the name and password in its URL."""
    auth = parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers)


def _checked(url: str, response: Response) -> Response:
    if response.status in (200, 206, 416):
        return response
    what = f"the server answers {response.status}"
    asked = response.headers.get("Retry-After", "")
    response.close()
    if response.status in _PASSING:
        wait = min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else None
        raise TransientError(what, wait)
    raise _for_good(url, what, "check the URL in the sheet, or get the file by hand")


def _to_reply(request: Request, response: Response, blocks: Iterator[bytes]) -> Reply:
    headers = response.headers
    start, total = 0, _number(headers.get("Content-Length"))
    is_framed = total is not None or bool(getattr(response, "chunked", False))
    if response.status == 206:
        start, total = _read_range(headers.get("Content-Range", ""))
        if start != request.offset:
            msg = f"asked for byte {request.offset:,} on, the server sends byte {start:,} on"
            raise StaleError(msg)
    elif response.status == 416:
        start, total = request.offset, _number(headers.get("Content-Range", "").partition("*/")[2])
        if start != total:
            msg = f"the server has no byte {start:,} any more"
            raise StaleError(msg)
        blocks = iter(())  # the body is a page about the error; all bytes are at hand
    encoding = headers.get("Content-Encoding", "identity").lower()
    return Reply(
        start=start,
        total=total,
        is_framed=is_framed,
        tag=_validator(headers),
        encoding=None if encoding == "identity" else encoding[:40],
        is_page=headers.get("Content-Type", "").lower().startswith("text/html"),
        blocks=blocks,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 19 else None


def _read_range(text: str) -> tuple[int, int | None]:
    """Return first byte and size of ``bytes 5-9/10``; first byte -1 where it is malformed."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = _number(span.partition("-")[0])
    return (start if unit == "bytes" and start is not None else -1), _number(total)


def _validator(headers: Any) -> str | None:  # noqa: ANN401 - urllib3's mapping of headers
    """Return a strong validator: a weak one does not promise the same bytes."""
    tag: str | None = headers.get("ETag")
    if tag and tag.startswith('"') and len(tag) < 500:
        return tag
    changed: str | None = headers.get("Last-Modified")
    return changed if changed and len(changed) < 100 else None


def _explain(url: str, error: Exception, watch: Watch, options: Options) -> Exception:
    """Return what an error of the network means for the download."""
    cause = error.args[0] if error.args else None
    if isinstance(error, SSLError) and isinstance(cause, ssl.SSLCertVerificationError):
        fix = "check the clock and the certificates of this machine (SSL_CERT_FILE)"
        return _for_good(url, f"its certificate is refused: {cause.verify_message}", fix)
    if isinstance(error, LocationValueError | UnicodeError):
        return _for_good(url, "its host name is malformed", "correct the URL in the sheet")
    if watch.has_hung_up or isinstance(error, TimeoutError | Urllib3Timeout):
        return TransientError(_stalled(options))
    return TransientError(f"the connection failed ({type(error).__name__})")


def _stalled(options: Options) -> str:
    return f"no progress for {options.stall:g} s"


def _for_good(url: str, what: str, fix: str) -> RemoteError:
    return RemoteError(file_problem("R05", "download", show_url(url), what, fix))


def _bad_redirect(url: str, target: str, reason: str) -> BadInputError:
    what = f"the server redirects to {show_url(target)}, which is not followed: {reason}"
    fix = "write the final URL into the sheet, or name its host with --allow-host HOST"
    return BadInputError(file_problem("R02", "download", show_url(url), what, fix))
