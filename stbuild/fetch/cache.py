"""Files by their content: what was downloaded once is never downloaded again.

A file is named by its SHA-256, which is checked again whenever it is taken out. Which files
belong in it is not decided here.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.durable import guard_disk, partial_name, sync_directory


@dataclass(frozen=True)
class Cache:
    """A folder of files named by their content.

    Parameters
    ----------
    root
        The folder; it is made when the first file goes in.
    """

    root: Path

    def _place(self, sha256: str) -> Path:
        return self.root / "sha256" / sha256[:2] / sha256

    def find(self, sha256: str) -> Path | None:
        """Return the file with this content; a damaged one is removed and not returned."""
        path = self._place(sha256)
        try:
            if sha256_file(path) == sha256:
                return path
        except OSError:
            return None
        with suppress(OSError):
            path.unlink()
        return None

    def add(self, path: Path, sha256: str) -> Path:
        """Keep a file whose SHA-256 was just checked, and return where it is kept.

        Raises
        ------
        ResourceError
            The cache cannot be written.
        """
        place = self._place(sha256)
        if not place.is_file():
            guard_disk(place, lambda: link_or_copy(path, place))
        return place


def link_or_copy(source: Path, place: Path) -> None:
    """Give a file a second name, or copy it where that cannot be; `place` is replaced at once.

    Raises
    ------
    OSError
        The disk refuses.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_name(place)
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError:
            _copy(source, temporary)
        temporary.replace(place)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()  # a rename onto another name of the same file leaves this one
    sync_directory(place.parent)


def _copy(source: Path, place: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with source.open("rb") as given, os.fdopen(os.open(place, flags, 0o644), "wb") as taken:
        shutil.copyfileobj(given, taken, 1 << 20)
        taken.flush()
        os.fsync(taken.fileno())
