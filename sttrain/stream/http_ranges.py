"""Ranges over HTTPS: what fsspec leaves open is checked here.

fsspec's own reader takes whatever a server sends for a range: the whole file, another range, a page
that asks to log in, a body without end. Here the status, the range and the number of bytes are
those that were asked for. Redirects are followed by hand, so that each is checked; no credentials
are sent: no netrc, no cookies.
"""

import asyncio
import errno
import re
from typing import Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from fsspec.asyn import sync  # type: ignore[import-untyped]
from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]

from stbuild.corpus.transient import TransientError
from stbuild.corpus.urls import refuse_redirect
from sttrain.stream.transport import Patience, RefusedError

_BLOCK: Final = 1 << 16
_CLOSING: Final = 5.0
"""Seconds in which connections close."""
_LONGEST_WAIT: Final = 60.0
_MOST_REDIRECTS: Final = 5
_PASSING: Final = frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""Answers that may be another one the next time."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class HTTPRanges(HTTPFileSystem):  # type: ignore[misc]
    """The HTTP file system of fsspec, with its reading of ranges made strict.

    Parameters
    ----------
    patience
        How long a server may take.
    """

    cachable = False

    def __init__(self, patience: Patience) -> None:
        super().__init__(get_client=_open_client)
        self.patience = patience

    def hang_up(self) -> None:
        """Close all connections; what waits for an answer fails at once."""
        if self._session is not None:
            sync(self.loop, self._session.close, timeout=_CLOSING)

    async def _cat_file(
        self, path: str, start: int = 0, end: int = 0, total: int | None = None
    ) -> bytes:
        """Return the bytes from `start` up to `end`, or to the end of the file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        OSError
            ``EFBIG``: the file has not the size `total`.
        RefusedError
            The server refuses, ignores ranges, or points elsewhere.
        TransientError
            Anything else.
        """
        patience, url = self.patience, path
        timeout = aiohttp.ClientTimeout(
            total=patience.stall + (end - start) / patience.slowest,
            sock_connect=patience.stall, sock_read=patience.stall,
        )  # fmt: skip
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        session = await self.set_session()
        try:
            for _ in range(_MOST_REDIRECTS):
                async with session.get(
                    url, headers=headers, allow_redirects=False, timeout=timeout, proxy=_proxy(url)
                ) as reply:
                    if reply.status not in _REDIRECTS:
                        return await _read(reply, start, end, total)
                    url = _redirected(path, urljoin(url, reply.headers.get("Location", "")))
        # A session that is closed on the way is a RuntimeError.
        except (TimeoutError, aiohttp.ClientError, RuntimeError, ValueError) as error:
            raise TransientError(_words(error)) from error
        msg = "it leads from one place to another without end"
        raise RefusedError(msg)


def _words(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it stalled"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut short"
    return str(error)[:200] or type(error).__name__


async def _open_client(loop: asyncio.AbstractEventLoop | None = None) -> aiohttp.ClientSession:
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(loop=loop, auto_decompress=False, cookie_jar=jar)


async def _read(reply: aiohttp.ClientResponse, start: int, end: int, total: int | None) -> bytes:
    n = _expected(reply, start, end, total)
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        msg = "the server coded what it sends although it was asked not to"
        raise TransientError(msg)
    body = bytearray()
    async for block in reply.content.iter_chunked(_BLOCK):
        body += block
        if len(body) > (end - start if n is None else n):
            if reply.status == 200:
                raise RefusedError(_NO_RANGES)
            msg = f"more than the {n:,} bytes came that the server named"
            raise TransientError(msg)
    if n is not None and len(body) != n:
        msg = f"{len(body):,} of {n:,} bytes came"
        raise TransientError(msg)
    return bytes(body)


_NO_RANGES: Final = "the server sends whole files where a range of one is asked for"


def _expected(reply: aiohttp.ClientResponse, start: int, end: int, total: int | None) -> int | None:
    """Return how many bytes must come, by what the server says before it sends them."""
    _check_status(reply)
    if reply.status == 200:
        length = reply.content_length
        if start > 0 or (length is not None and length > end):
            raise RefusedError(_NO_RANGES)
        if total is not None and length not in (None, total):
            raise _other_size(length, total)
        return length if total is None else total
    told = reply.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", told)
    if found is None:
        msg = f"the server does not say which range it sends ({told[:60]!r})"
        raise TransientError(msg)
    first, last, size = map(int, found.groups())
    if total is not None and size != total:
        raise _other_size(size, total)
    if (first, last) != (start, min(end, size) - 1):
        msg = f"the server sends the range {told[:60]!r}, bytes {start}-{end - 1} were asked for"
        raise TransientError(msg)
    return last - first + 1


def _check_status(reply: aiohttp.ClientResponse) -> None:
    if reply.status in (200, 206):
        return
    if reply.status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, "there is no such file")
    if reply.status == 416:
        raise OSError(errno.EFBIG, "it ends before the bytes that are asked for")
    said = f"the server answers {reply.status} {reply.reason or ''}".strip()
    if reply.status not in _PASSING:
        raise RefusedError(said)
    wait = reply.headers.get("Retry-After", "")
    raise TransientError(said, min(float(wait), _LONGEST_WAIT) if wait.isdigit() else None)


def _other_size(found: int | None, total: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {found or 0:,} bytes, corpus.json says {total:,}")


def _redirected(url: str, target: str) -> str:
    if reason := refuse_redirect(url, target, ()):
        msg = f"the server points elsewhere, and that is not followed: {reason}"
        raise RefusedError(msg)
    return target


def _proxy(url: str) -> str | None:
    """Return the proxy that the user's environment names."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
