"""One file: asked for, received, gone on with after a break, checked. Never under its final name.

What is checked, and when: the size that the server names before the first byte, the size while
bytes come, size and SHA-256 of what is on the disk in the end.
"""

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

import stamina

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.errors import IntegrityError, Problem, RemoteError, ResourceError
from stbuild.corpus.transient import TransientError, when_to_retry
from stbuild.corpus.urls import show_url
from stbuild.fetch.errors import GET_AGAIN, StaleError, StoppedError, file_problem
from stbuild.fetch.partial import Partial
from stbuild.fetch.transport import Options, Reply, Request, open_reply

Advance = Callable[[int], None]
"""Told how many bytes came; negative where some are thrown away."""
Progress = Callable[[str, int | None], Advance]
"""Told that a download begins, with its name and its size, where known."""
Say = Callable[[str], None]

# Attempts are told to `say`; without a handler stamina's own log would reach the terminal.
logging.getLogger("stamina").addHandler(logging.NullHandler())

_SPARE: Final = 64 << 20
"""Bytes that a disk keeps free."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a file must be."""

    subject: str
    """Whose file it is, for messages."""
    url: str
    sha256: str | None = None
    n_bytes: int | None = None
    who: str = "the sheet"
    """Who says so, for messages."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """What a file is."""

    path: Path
    n_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()
    """What a person should know of a file that has no known hash."""


def download(
    target: Target, path: Path, options: Options, *, say: Say, progress: Progress
) -> Received:
    """Receive one file into `path`, going on with what an earlier run left there.

    Parameters
    ----------
    target
        What is asked for, and what it must be.
    path
        File of the bytes, beside the final place; it is complete and checked on return.
    options
        Attempts, patience, limits.
    say
        Told of attempts that fail.
    progress
        Told of bytes.

    Raises
    ------
    IntegrityError
        R06: another size. R07: another SHA-256.
    RemoteError
        R05: it cannot be had, or not after all attempts.
    ResourceError
        The disk is full or refuses.
    BadInputError
        R01, R02: a URL or redirect that is not followed.
    """
    work = _Work(target=target, partial=Partial(path, target.url), options=options, say=say)
    caller = stamina.RetryingCaller(
        attempts=options.attempts, timeout=None, wait_initial=options.wait,
        wait_max=options.longest_wait, wait_jitter=options.wait / 4,
    )  # fmt: skip
    try:
        return caller(when_to_retry, work.attempt, progress)
    except TransientError as error:
        raise _given_up(target, work.partial, str(error), options) from None


@dataclass(kw_only=True)
class _Work:
    """The attempts at one file, which share what has been received."""

    target: Target
    partial: Partial
    options: Options
    say: Say
    n_tried: int = 0

    def attempt(self, progress: Progress) -> Received:
        """Receive what is missing, and check the whole.

        Raises
        ------
        TransientError
            The connection broke, or what was gone on with turns out to be another file's.
        """
        self.n_tried += 1
        try:
            return self._receive(progress)
        except TransientError as error:
            if isinstance(error, StaleError):
                self.partial.forget()
            again = f"attempt {self.n_tried} of {self.options.attempts} failed: {error}"
            self.say(f"{show_url(self.target.url)}: {again}")
            raise

    def _receive(self, progress: Progress) -> Received:
        offset, tag = self.partial.beginning()
        if tag is None and self.target.sha256 is None:
            offset = 0  # nothing would tell a mixture of two files
        if offset and offset == self.target.n_bytes:
            return self._finish(offset, offset, ())
        request = Request(url=self.target.url, offset=offset, tag=tag)
        with open_reply(request, self.options) as reply:
            self._check_before(reply)
            advance = progress(show_url(self.target.url), reply.total)
            advance(reply.start)
            n_bytes = self._store(reply, advance)
        if reply.total is not None and n_bytes != reply.total:
            msg = f"{n_bytes:,} of {reply.total:,} bytes came"
            raise TransientError(msg)
        return self._finish(n_bytes, reply.start, _notes(reply))

    def _check_before(self, reply: Reply) -> None:
        """Refuse by what the server says, before the first byte is stored."""
        if reply.total is not None:
            self._check_size(reply.total, "the server names")
            _check_disk(self.partial.path, reply.total - reply.start)
        if self.target.sha256 is not None:
            return
        if reply.total is None and not reply.is_framed and self.target.n_bytes is None:
            what = "neither sheet nor server says how long the file is, and there is no SHA-256"
            raise RemoteError(self._problem("R05", what, "write bytes or sha256 into the sheet"))
        if reply.is_page and not self.target.url.split("?")[0].endswith((".html", ".htm")):
            what = "the server sends a web page instead of a file"
            raise RemoteError(
                self._problem("R05", what, "get the file by hand: it may need a login")
            )

    def _check_size(self, n_bytes: int, who: str) -> None:
        wanted = self.target.n_bytes
        if wanted is not None and n_bytes != wanted:
            self.partial.forget()
            what = f"{who} {n_bytes:,} bytes, the sheet {wanted:,}"
            fix = "the file has changed: check its source, then mend bytes and sha256 in the sheet"
            raise IntegrityError(self._problem("R06", what, fix))
        if n_bytes > self.options.most_bytes:
            what = f"{who} {n_bytes:,} bytes, at most {self.options.most_bytes:,} are received"
            raise IntegrityError(self._problem("R06", what, "raise --most-gb if that is right"))

    def _store(self, reply: Reply, advance: Advance) -> int:
        """Write the bytes that come, and return the size of what is there then."""
        most = self.options.most_bytes if self.target.n_bytes is None else self.target.n_bytes
        n_bytes, path = reply.start, self.partial.path
        with closing(self.partial.open_at(reply.start, reply.tag)) as file:
            for block in reply.blocks:
                if self.options.stop.is_set():
                    raise StoppedError
                n_bytes += len(block)
                if n_bytes > most:
                    self.partial.forget()
                    what = f"more than {most:,} bytes came"
                    fix = "check the source, then bytes in the sheet or --most-gb"
                    raise IntegrityError(self._problem("R06", what, fix))
                guard_disk(path, partial(_write_all, file, block))
                advance(len(block))
            guard_disk(path, partial(os.fsync, file.fileno()))
        return n_bytes

    def _finish(self, n_bytes: int, start: int, notes: tuple[str, ...]) -> Received:
        """Check the whole file as it stands on the disk."""
        path = self.partial.path
        self._check_size(n_bytes, "the file has")
        found = guard_disk(path, lambda: sha256_file(path))
        wanted = self.target.sha256
        if wanted is not None and found != wanted:
            self.partial.forget()
            if start:
                msg = "what came does not fit what was there; starting over"
                raise StaleError(msg)
            what = f"SHA-256 is {found}, {self.target.who} has {wanted} ({n_bytes:,} bytes)"
            fix = "check the source: the file has changed, or it is another one; nothing was kept"
            raise IntegrityError(self._problem("R07", what, fix))
        return Received(path=path, n_bytes=n_bytes, sha256=found,
                        notes=() if wanted is not None else notes)  # fmt: skip

    def _problem(self, code: str, what: str, fix: str) -> Problem:
        return file_problem(code, self.target.subject, show_url(self.target.url), what, fix)


def _write_all(file: IO[bytes], block: bytes) -> None:
    rest = memoryview(block)
    while rest:  # the file has no buffer, which could fail once more when it is closed
        rest = rest[file.write(rest) :]


def _notes(reply: Reply) -> tuple[str, ...]:
    if reply.encoding is None:
        return ()
    return (f"the server sent it {reply.encoding!r}-coded though it was asked not to; kept so",)


def _check_disk(path: Path, missing: int) -> None:
    """Refuse before the first byte what cannot fit."""
    guard_disk(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    free = shutil.disk_usage(path.parent).free
    if missing + _SPARE > free:
        what = f"{missing:,} bytes are missing, the disk has {free:,} left"
        fix = "free space, then run the same command again: what was received is kept"
        raise ResourceError(Problem(code="P05", subject=f"output '{path.name}'",
                                    where=str(path.parent), what=what, fix=fix))  # fmt: skip


def _given_up(target: Target, partial: Partial, why: str, options: Options) -> RemoteError:
    kept, _ = partial.beginning()
    what = f"{why}; given up after {options.attempts} attempts, {kept:,} bytes are kept"
    return RemoteError(file_problem("R05", target.subject, show_url(target.url), what, GET_AGAIN))
