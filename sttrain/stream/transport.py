"""Ranges of the files of a remote folder, through fsspec, with patience and limits.

Which URLs are opened at all: :mod:`stbuild.corpus.urls`. What comes is bounded by what was asked
for, whatever the server sends; what it is, the caller checks by digest.
"""

import errno
import logging
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import stamina

from stbuild.corpus.errors import PlatformError
from stbuild.corpus.transient import TransientError, when_to_retry
from stbuild.corpus.urls import CORPUS_SCHEMES, refuse_url, show_url
from sttrain.errors import BadInputError, Problem, RemoteError

# Attempts that fail are the caller's to tell; without a handler they would reach the terminal.
logging.getLogger("stamina").addHandler(logging.NullHandler())

_PACKAGES: Final = {
    "http": "fsspec[http]", "https": "fsspec[http]", "s3": "s3fs", "gs": "gcsfs",
    "hf": "huggingface_hub",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server may take; nothing here changes a byte."""

    attempts: int = 6
    """Times that a range is asked for."""
    wait: float = 0.5
    """Seconds before the second attempt; doubled with each further one."""
    longest_wait: float = 20.0
    stall: float = 30.0
    """Seconds in which something has to come over HTTP, else the attempt ends."""
    slowest: float = 100_000.0
    """Bytes a second; what comes more slowly than that, and `stall` seconds, is given up."""


class RefusedError(Exception):
    """An answer that stays the same however often it is asked for."""


class RemoteFolder:
    """The files below a URL.

    Parameters
    ----------
    url
        Folder: ``https://HOST/FOLDER/``, ``s3://BUCKET/FOLDER``, ``gs://BUCKET/FOLDER``,
        ``hf://datasets/OWNER/NAME``, or ``http`` on this machine.
    patience
        Attempts and waits.

    Raises
    ------
    BadInputError
        A URL that is not opened.
    PlatformError
        A package is missing.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        reason = refuse_url(url, CORPUS_SCHEMES)
        if reason is None and (urlsplit(url).query or urlsplit(url).fragment):
            reason = "the URL of a folder has no '?' and no '#'"
        if reason is not None:
            raise BadInputError(_problem("R01", url, reason, _FIX_URL))
        self.url, self.patience = url.rstrip("/"), patience or Patience()
        self._scheme = url.partition(":")[0].lower()
        self._left = threading.Event()
        self._files = self._open()

    def _open(self) -> Any:  # noqa: ANN401 - fsspec ships no types
        try:
            import fsspec  # type: ignore[import-untyped]

            if self._scheme in ("http", "https"):
                from sttrain.stream.http_ranges import HTTPRanges

                return HTTPRanges(self.patience)
            return fsspec.filesystem(self._scheme, skip_instance_cache=True)
        except ImportError as error:
            package = _PACKAGES[self._scheme]
            what = f"{self._scheme}: URLs need the package {package}, which is not installed"
            fix = f"pip install '{package}'"
            raise PlatformError(_problem("E009", self.url, what, fix)) from error

    def hang_up(self) -> None:
        """Let whoever waits for a server give up: what comes is not wanted any more."""
        self._left.set()
        if self._scheme in ("http", "https"):
            self._files.hang_up()

    def _when_to_retry(self, error: Exception) -> bool | float:
        return False if self._left.is_set() else when_to_retry(error)

    def where(self, path: str) -> str:
        """Return the URL of a file as it is shown."""
        return f"{show_url(self.url)}/{path}"

    def read(self, path: str, start: int, n: int, total: int | None = None) -> bytes:
        """Read a range of a file.

        Parameters
        ----------
        path
            The file, relative to the folder; the caller has checked it against the names of the
            format.
        start, n
            First byte, and how many.
        total
            Size that the file must have, where it is known.

        Returns
        -------
        bytes
            `n` bytes, or those up to the end of a file that ends earlier.

        Raises
        ------
        OSError
            There is no such file, or it has another size.
        RemoteError
            It cannot be had, or not after all attempts.
        """
        end = start + n if total is None else min(start + n, total)
        patience = self.patience
        caller = stamina.RetryingCaller(
            attempts=patience.attempts, timeout=None, wait_initial=patience.wait,
            wait_max=patience.longest_wait, wait_jitter=patience.wait / 4,
        )  # fmt: skip
        try:
            return caller(self._when_to_retry, self._ask, path, start, end, total)
        except TransientError as error:
            what = f"{error}; given up after {patience.attempts} attempts"
            raise RemoteError(_problem("R05", self.where(path), what, _FIX_AGAIN)) from None
        except RefusedError as error:
            raise RemoteError(_problem("R05", self.where(path), str(error), _FIX_URL)) from None

    def _ask(self, path: str, start: int, end: int, total: int | None) -> bytes:
        extra = {"total": total} if self._scheme in ("http", "https") else {}
        try:
            raw: bytes = self._files.cat_file(f"{self.url}/{path}", start=start, end=end, **extra)
        except (FileNotFoundError, IsADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "there is no such file") from None
        except PermissionError:
            msg = "it may not be read"
            raise RefusedError(msg) from None
        except (TransientError, RefusedError):
            raise
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise
            msg = f"the store failed ({error.strerror or type(error).__name__})"
            raise TransientError(msg) from error
        if len(raw) > end - start or (total is not None and len(raw) < end - start):
            msg = f"{len(raw):,} bytes came, {end - start:,} were asked for"
            raise TransientError(msg)
        return raw


_FIX_URL: Final = (
    "give the URL of the folder that holds corpus.json; or get the corpus to this machine first"
)
_FIX_AGAIN: Final = "run the same command again: it goes on where it stopped"


def _problem(code: str, url: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject="corpus", where=show_url(url), what=what, fix=fix)
