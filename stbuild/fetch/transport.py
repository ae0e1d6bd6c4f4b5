"""What a download asks of a server or store, and what it gets: one stream of bytes from an offset.

No protocol is spoken here; :mod:`stbuild.fetch.web` and :mod:`stbuild.fetch.stored` do.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.urls import SCHEMES, refuse_url, show_url
from stbuild.fetch.errors import file_problem

BLOCK: Final = 1 << 18
"""Bytes asked for at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How patient a download is and what it refuses; nothing here changes a byte."""

    attempts: int = 6
    """Times that a file is tried; each goes on where the last one stopped."""
    wait: float = 1.0
    """Seconds before the second attempt; doubled with each further one."""
    longest_wait: float = 20.0
    stall: float = 60.0
    """Seconds in which some progress has to be made, else the connection is given up."""
    most_bytes: int = 256 * 10**9
    """Largest file that is received, and largest member that is unpacked."""
    hosts: frozenset[str] = frozenset()
    """Other hosts to which a redirect is followed."""
    stop: Event = field(default_factory=Event)
    """Set to end all downloads at their next block."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for: a URL from an offset on, if it is still the same file."""

    url: str
    offset: int = 0
    tag: str | None = None
    """Validator of the bytes at hand: an ETag or a time of change."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came: the bytes from `start` on."""

    start: int
    """Offset of the first byte; 0 where the server gives the whole file all the same."""
    total: int | None
    """Size of the whole file, where the server says it."""
    is_framed: bool
    """Whether a reply that is cut short can be told from a whole one."""
    tag: str | None
    """Strong validator of the file, to go on later."""
    encoding: str | None
    """Content coding that the server applied although none was asked for."""
    is_page: bool
    """Whether the server calls it a web page."""
    blocks: Iterator[bytes]


def open_reply(request: Request, options: Options) -> AbstractContextManager[Reply]:
    """Ask for a file, by whatever its scheme needs.

    Raises
    ------
    BadInputError
        A scheme that is not opened.
    RemoteError, PlatformError
        The server refuses for good; a package is missing.
    TransientError
        Something that may be gone at the next attempt.
    """
    if reason := refuse_url(request.url):
        raise BadInputError(refused_url("source", request.url, reason))
    scheme = request.url.split(":", 1)[0].lower()
    if scheme in ("http", "https"):
        from stbuild.fetch.web import open_web

        return open_web(request, options)
    from stbuild.fetch.stored import open_stored

    return open_stored(request, scheme)


def refused_url(subject: str, url: str, reason: str) -> Problem:
    """Return the problem of a URL that is not opened."""
    fix = f"use one of {', '.join(SCHEMES)}, or leave the URL empty and place the file by hand"
    return file_problem("R01", subject, show_url(url), reason, fix)
