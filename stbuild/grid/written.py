"""Files of a folder that gets its name when all are in: what was meant for each is kept.

A digest of a file that was just written tells what is stored, not what was meant, and would seal
what a short or lying write left out. So digests are taken before the disk has a say.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from stbuild.corpus.documents import FileEntry
from stbuild.corpus.durable import check_stored


class WrittenFiles:
    """Files that are written below a folder, with size and SHA-256 of what was meant for each.

    Parameters
    ----------
    root
        The folder; what is written in it by other means is not known here.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._meant: dict[Path, tuple[int, str]] = {}

    def write(self, path: Path, blocks: bytes | Iterable[bytes]) -> None:
        """Write a file; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = sha256(), 0
        with path.open("wb") as file:
            for block in (blocks,) if isinstance(blocks, bytes) else blocks:
                digest.update(block)
                size += len(block)
                file.write(block)
        self._meant[path] = size, digest.hexdigest()

    def entries(self) -> tuple[FileEntry, ...]:
        """Return size and digest of what was meant for every file, sorted by path."""
        return tuple(
            FileEntry(path=path.relative_to(self._root).as_posix(), bytes=size, sha256=digest)
            for path, (size, digest) in sorted(self._meant.items())
        )

    def read_back(self, final: Path) -> None:
        """Compare every file with what was meant.

        Parameters
        ----------
        final
            What the folder will be called, for messages.

        Raises
        ------
        IntegrityError
            P06: a file that is not what was written.
        """
        for path, (_, digest) in sorted(self._meant.items()):
            check_stored(path, digest, final / path.relative_to(self._root))
