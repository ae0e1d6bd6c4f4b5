"""URLs from strangers: which schemes are opened, which redirects are followed, what is shown.

Everything is decided on the text of the URL; nothing is resolved and no connection is made here.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

SCHEMES: Final = ("https", "http", "file", "s3", "gs")
"""All that a manifest's files are got from; ``http`` only on this machine."""
CORPUS_SCHEMES: Final = ("https", "http", "s3", "gs", "hf")
"""All that a corpus is read from; ``hf`` is the Hugging Face Hub."""

_LONGEST: Final = 2048
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")


def refuse_url(url: str, schemes: Collection[str] = SCHEMES) -> str | None:
    """Say why a URL is not opened; None if it is.

    Of the schemes that are allowed, ``http`` is on loopback addresses alone and ``file`` has an
    absolute path. Everything else is refused by name, chains such as ``simplecache::https://`` and
    commands such as ``pipe:`` included.
    """
    known = f"only {', '.join(f'{name}:' for name in schemes)} are opened"
    if len(url) > _LONGEST or _UNSAFE.search(url):
        return f"a URL has at most {_LONGEST} characters, no blanks, backslashes or control ones"
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*::", url):
        return f"the chained scheme '{url.split('::', 1)[0]}::' is refused: {known}"
    found = _SCHEME.match(url)
    if found is None:
        return f"it names no scheme: {known}"
    scheme = found[1].lower()
    if scheme not in schemes:
        return f"the scheme '{scheme}:' is refused: {known}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "it is malformed"
    return _refuse_host(scheme, parts)


def _refuse_host(scheme: str, parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        return "it carries a user name or a password, which do not belong in a shared file"
    if scheme == "file":
        is_absolute = parts.netloc in ("", "localhost") and parts.path.startswith("/")
        return None if is_absolute else "a file: URL is file:///ABSOLUTE/PATH on this machine"
    if not host or not parts.path.strip("/"):
        return f"{scheme}: URLs name a host or bucket and a file in it"
    if scheme in ("s3", "gs", "hf"):
        extra = "::" in parts.path or parts.query or parts.fragment
        return "object names with '::', '?' or '#' are refused" if extra else None
    if scheme == "http" and not is_loopback(host):
        return "plain http: is opened on this machine only; use https:"
    return _refuse_address(host)


def _refuse_address(host: str) -> str | None:
    """Refuse addresses that stand for something else than a server, such as cloud metadata."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return f"the address {host} is not a server's"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost`` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_redirect(url: str, target: str, hosts: Collection[str]) -> str | None:
    """Say why a redirect is not followed; None if it is.

    Parameters
    ----------
    url
        The URL that was asked for, already allowed.
    target
        Where the server points, as an absolute URL.
    hosts
        Other hosts that the user allowed, as ``host`` or ``host:port``.
    """
    if reason := refuse_url(target):
        return reason
    here, there = urlsplit(url), urlsplit(target)
    if here.scheme.lower() != there.scheme.lower():
        return f"it leads from {here.scheme}: to {there.scheme}:"
    if _origin(here) == _origin(there):
        return None
    named = {there.hostname, f"{there.hostname}:{there.port}"}
    if named & {host.lower() for host in hosts}:
        return None
    return f"it leads to another host, {there.netloc}"


def _origin(parts: SplitResult) -> tuple[str, int]:
    default = 443 if parts.scheme.lower() == "https" else 80
    return parts.hostname or "", parts.port or default


def show_url(url: str) -> str:
    """Return a URL for messages and records: without user, password, query and fragment.

    Signed URLs carry their secret in the query, so it is never shown.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(malformed URL)"
    host = f"[{host}]" if ":" in host else host
    head = f"{parts.scheme}://{host}{port}" if parts.netloc or parts.scheme == "file" else ""
    return f"{head or parts.scheme + ':'}{parts.path}"[:300]
