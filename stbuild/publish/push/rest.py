"""JSON and files over HTTPS to one host, with a token that goes to no other.

Redirects are not followed: a request that writes has no business elsewhere.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from stbuild.fetch.errors import TransientError
from stbuild.publish.push.faults import PASSING, refused, shorten, strange
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.retry import Say, try_patiently
from stbuild.remote import is_loopback

_MOST: Final = 64 << 20
"""Largest answer that is read."""
_LONGEST_WAIT: Final = 60.0


class Rest:
    """The client of one REST interface.

    Parameters
    ----------
    base
        Such as ``https://zenodo.org/api``.
    token
        Sent as a bearer token, in a header and never in a URL.
    options
        Patience.
    say
        Told of failed attempts.
    """

    def __init__(self, base: str, token: str, options: PushOptions, say: Say) -> None:
        self.base, self.options, self.say = base, options, say
        self.host = urlsplit(base).netloc
        self._token = token
        timeout = urllib3.Timeout(connect=options.timeout, read=options.timeout)
        proxy = getproxies().get(urlsplit(base).scheme)
        bare = urlsplit(base).hostname or ""
        self._pool: urllib3.PoolManager
        if not proxy or is_loopback(bare) or proxy_bypass(bare):
            self._pool = urllib3.PoolManager(timeout=timeout)
        else:
            self._pool = urllib3.ProxyManager(proxy, timeout=timeout)

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Ask for a document, as often as it takes."""
        url = f"{path}?{urlencode(query)}" if query else path
        return self._patiently("GET", url)

    def put(self, path: str, value: object) -> Any:  # noqa: ANN401
        """Replace a document; doing so twice is as good as once."""
        return self._patiently("PUT", path, value)

    def delete(self, path: str) -> None:
        """Delete something; gone already is as good."""
        self._patiently("DELETE", path, fine=(404, 410))

    def post_once(self, path: str, value: object) -> Any:  # noqa: ANN401
        """Send a document once: whether it arrived is to be asked before it is sent again.

        Raises
        ------
        TransientError
            It may have arrived or not.
        """
        return self._send("POST", path, json.dumps(value).encode())

    def put_file(self, url: str, source: Path, size: int) -> Any:  # noqa: ANN401
        """Send a file as it stands, from its beginning."""

        def send() -> Any:  # noqa: ANN401
            with source.open("rb") as file:
                return self._send("PUT", url, file, size)

        return try_patiently(send, self.host, self._where(url), self.options, self.say)

    def _patiently(
        self, method: str, path: str, value: object = None, fine: tuple[int, ...] = ()
    ) -> Any:  # noqa: ANN401
        body = None if value is None else json.dumps(value).encode()
        return try_patiently(
            lambda: self._send(method, path, body, fine=fine),
            self.host, self._where(path), self.options, self.say,
        )  # fmt: skip

    def _where(self, path: str) -> str:
        return urlsplit(path).path if "://" in path else urlsplit(self.base + path).path

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,  # noqa: ANN401 - bytes or an open file
        size: int | None = None,
        fine: tuple[int, ...] = (),
    ) -> Any:  # noqa: ANN401
        url = path if "://" in path else self.base + path
        here, there = urlsplit(self.base), urlsplit(url)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            what = f"it names {there.scheme}://{there.netloc}, to which the token does not go"
            raise strange(self.host, self._where(path), what)
        headers = {"Authorization": f"Bearer {self._token}", "User-Agent": "stbuild-push",
                   "Accept": "application/json"}  # fmt: skip
        if size is not None:
            headers |= {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        elif body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, retries=False,
                preload_content=False, decode_content=True,
            )  # fmt: skip
            try:
                raw = response.read(_MOST + 1)
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            raise TransientError(shorten(f"{type(error).__name__}: {error}")) from None
        return self._read(method, path, response, raw, fine)

    def _read(
        self,
        method: str,
        path: str,
        response: urllib3.BaseHTTPResponse,
        raw: bytes,
        fine: tuple[int, ...],
    ) -> Any:  # noqa: ANN401
        status, where = response.status, self._where(path)
        if status in PASSING:
            asked = response.headers.get("Retry-After", "")
            wait = min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else None
            msg = f"{method} is answered {status}"
            raise TransientError(msg, wait)
        if status in fine or (200 <= status < 300 and not raw.strip()):
            return None
        if not 200 <= status < 300:
            said = shorten(raw[:4000].decode("utf-8", "replace"))
            raise refused(self.host, where, f"{method} is answered {status}: {said}", _fix(status))
        try:
            if len(raw) > _MOST:
                raise strange(self.host, where, f"an answer of more than {_MOST:,} bytes")
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise strange(self.host, where, f"{method} is answered {status}, not JSON") from None


def _fix(status: int) -> str:
    if status in (401, 403):
        return (
            "check the token: its account, and that it may write (deposit:write, deposit:actions)"
        )
    if status in (404, 410):
        return "check the name or number, and that the token's account may see it"
    if status in (301, 302, 303, 307, 308):
        return "redirects are not followed: give the endpoint that it leads to"
    return "mend what the host names, then run the same command again"
