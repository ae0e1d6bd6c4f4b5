"""One member of a tar archive, gzipped or not, read in bounds.

Nothing is extracted by tarfile: members are walked by their headers, and the one that is asked
for is read as bytes. Headers that claim to be huge are refused before they are read.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from stbuild.fetch.errors import ArchiveFaultError

_MOST_AT_ONCE: Final = 4 << 20
"""Bytes that one read may ask for: a header that claims more is damage or an attack."""
_MOST_MEMBERS: Final = 200_000


class _Bounded:
    """A file as tarfile wants it, which refuses huge reads and far jumps.

    Parameters
    ----------
    file
        The archive's bytes, unpacked.
    most
        Bytes that they may have.
    """

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        if not 0 <= size <= _MOST_AT_ONCE:
            msg = f"a header of the archive claims {size:,} bytes"
            raise ArchiveFaultError(msg)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to `offset` from the beginning."""
        if whence != 0 or not 0 <= offset <= self._most:
            msg = f"the archive claims {offset:,} bytes, at most {self._most:,} can be in it"
            raise ArchiveFaultError(msg)
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._file.tell()


@contextmanager
def open_tar_member(archive: Path, member: str, most: int) -> Iterator[tuple[IO[bytes], int]]:
    """Give one member as a file, and its size.

    Parameters
    ----------
    archive
        The archive.
    member
        Name of the member; a leading ``./`` of the archive is ignored.
    most
        Bytes that the unpacked archive may have.

    Raises
    ------
    ArchiveFaultError
        Not a tar archive, damaged, no such member or several, not a plain file.
    """
    try:
        with _open_bytes(archive) as unpacked:
            bounded = cast("IO[bytes]", _Bounded(unpacked, most))
            with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as opened:
                info = _find(opened, member)
                file = opened.extractfile(info)
                if file is None:
                    msg = "the member is not a plain file"
                    raise ArchiveFaultError(msg)
                yield file, info.size
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"the archive is neither ZIP nor tar, or damaged: {str(error)[:200]}"
        raise ArchiveFaultError(msg) from None


@contextmanager
def _open_bytes(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if magic != b"\x1f\x8b":
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield cast("IO[bytes]", unpacked)


def _find(archive: tarfile.TarFile, member: str) -> tarfile.TarInfo:
    name, found, names = PurePosixPath(member), [], []
    for number in range(_MOST_MEMBERS + 1):
        info = archive.next()
        if info is None:
            break
        if number == _MOST_MEMBERS:
            msg = f"more than {_MOST_MEMBERS:,} members"
            raise ArchiveFaultError(msg)
        archive.members = []  # type: ignore[attr-defined]  # it would keep every header
        names += [info.name] if number < 5 else []
        if PurePosixPath(info.name) == name:
            found.append(info)
    if len(found) != 1:
        some = ", ".join(repr(text[:80]) for text in names)
        msg = f"{len(found)} members of that name, expected 1; the archive begins with {some}"
        raise ArchiveFaultError(msg)
    if not found[0].isreg() or found[0].issparse():
        msg = "the member is a folder, a link, a device or full of holes, expected a plain file"
        raise ArchiveFaultError(msg)
    return found[0]
