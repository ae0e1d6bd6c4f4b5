"""A file that is being received: its bytes so far, and what they are the beginning of.

``NAME.partial`` holds the bytes; ``NAME.partial.json`` names the URL and the server's validator,
so that a later run goes on only with the same file. No connection is made here.
"""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Final, Literal

from stbuild.corpus.documents import Document, Sha256
from stbuild.corpus.durable import guard_disk, write_durable
from stbuild.corpus.errors import StError
from stbuild.corpus.jsonio import load_strict
from stbuild.corpus.storage import read_file

_MOST: Final = 4096
"""Largest note that is read."""


class _Note(Document):
    """What the bytes at hand are the beginning of."""

    format: Literal["stcorpus/partial"] = "stcorpus/partial"
    version: Literal[1] = 1
    url_sha256: Sha256
    """Digest of the whole URL: its query may hold a token, which is written nowhere."""
    tag: str | None


@dataclass(frozen=True)
class Partial:
    """The beginning of a file, beside the place where it will stand.

    Parameters
    ----------
    path
        File of the bytes.
    url
        Where they come from.
    """

    path: Path
    url: str

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def beginning(self) -> tuple[int, str | None]:
        """Return how many bytes are at hand of this URL, and their validator; else (0, None)."""
        if self.path.is_symlink() or not self.path.is_file():
            return 0, None
        try:
            raw = read_file(self._note)
            note = _Note.model_validate(load_strict(raw, self._note.name, _MOST))
        except (OSError, ValueError, StError):
            return 0, None  # a note that cannot be read is as good as none
        same = note.url_sha256 == sha256(self.url.encode()).hexdigest()
        return (self.path.stat().st_size, note.tag) if same else (0, None)

    def open_at(self, start: int, tag: str | None) -> IO[bytes]:
        """Open the file for writing from `start` on; what stood there and after is cut off.

        Raises
        ------
        ResourceError
            The folder cannot be written.
        """
        return guard_disk(self.path, lambda: self._open_at(start, tag))

    def _open_at(self, start: int, tag: str | None) -> IO[bytes]:
        note = _Note(url_sha256=sha256(self.url.encode()).hexdigest(), tag=tag)
        if self.path.is_symlink():
            self.path.unlink()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(self.path, flags, 0o644), "r+b", buffering=0)
        file.truncate(start)
        file.seek(start)
        # Only now: an older file's bytes must never stand under a newer file's note.
        write_durable(self._note, note.to_bytes(), read_back=False)
        return file

    def forget(self) -> None:
        """Remove bytes and note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
