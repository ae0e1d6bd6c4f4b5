"""One member out of a ZIP or tar archive of a stranger, and nothing else of it.

Members are found by their exact name, so no path of the archive is ever used; links, devices and
encrypted members are refused, sizes are bounded before and while bytes are written.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_IFREG
from typing import IO, Final

from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import IntegrityError
from stbuild.fetch.errors import ArchiveFaultError, file_problem
from stbuild.fetch.tars import open_tar_member
from stbuild.fetch.zips import check_directory

RATIO: Final = 250
"""A member may be this many times larger than its bytes in the archive ..."""
SPARE: Final = 64 << 20
"""... and this much more: small text may be nothing but zeros."""
_BLOCK: Final = 1 << 20
_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError
)  # fmt: skip
"""What the readers raise on damaged archives; NotImplementedError is a RuntimeError."""


def refuse_member(member: str) -> str | None:
    """Say why a name cannot be that of a member; None if it can."""
    path = PurePosixPath(member)
    if not member.isprintable() or "\\" in member or len(member) > 1024:
        return "it has backslashes, unprintable characters, or more than 1,024 characters"
    if path.is_absolute() or ".." in path.parts or not path.parts or member.endswith("/"):
        return "a member is a file inside the archive, without a leading '/' and without '..'"
    return None


def take_member(
    archive: Path, member: str, out: Path, *, subject: str, where: str, most: int
) -> tuple[int, str]:
    """Write one member of an archive to a file, which appears whole or not at all.

    Parameters
    ----------
    archive
        ``.zip``, ``.tar`` or ``.tar.gz``, told by its content.
    member
        Name of the member, as the archive has it; a leading ``./`` of the archive is ignored.
    out
        The file; what stands there is replaced.
    subject, where
        Whose file it is and where the archive came from, for messages.
    most
        Largest member that is unpacked, in bytes.

    Returns
    -------
    tuple
        Size in bytes and SHA-256 of the member.

    Raises
    ------
    IntegrityError
        R08: no such archive or member, twice the same member, a link or device, encrypted,
        damaged, too large, or too well compressed to be true.
    ResourceError
        The disk refuses.
    """
    try:
        with _open_member(archive, member, most) as (file, bound):
            return write_durable(out, _bounded(file, bound))
    except ArchiveFaultError as fault:
        what = str(fault)
    except _DAMAGE as error:
        what = f"the archive is damaged: {str(error)[:200]}"
    fix = "check `unpack` in the sheet, and the archive at its source"
    problem = file_problem("R08", subject, f"{where}:{member}", what, fix)
    raise IntegrityError(problem)


@contextmanager
def _open_member(archive: Path, member: str, most: int) -> Iterator[tuple[IO[bytes], int]]:
    """Give the member and the size that it must not exceed."""
    if reason := refuse_member(member):
        raise ArchiveFaultError(reason)
    if not zipfile.is_zipfile(archive):
        packed = archive.stat().st_size
        with open_tar_member(archive, member, packed * RATIO + SPARE) as (file, size):
            _check_size(size, packed, most)
            yield file, size
        return
    check_directory(archive)
    with zipfile.ZipFile(archive) as opened:
        info = _find(opened, member)
        _check_size(info.file_size, info.compress_size, most)
        with opened.open(info) as file:
            yield file, info.file_size


def _find(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    name = PurePosixPath(member)
    found = [i for i in archive.infolist() if PurePosixPath(i.filename) == name]
    if len(found) != 1:
        some = ", ".join(repr(info.filename[:80]) for info in archive.infolist()[:5])
        msg = f"{len(found)} members of that name, expected 1; the archive begins with {some}"
        raise ArchiveFaultError(msg)
    info = found[0]
    kind = S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, S_IFREG):
        msg = "the member is a folder, a link or a device, expected a plain file"
        raise ArchiveFaultError(msg)
    if info.flag_bits & 0x1:
        msg = "the member is encrypted"
        raise ArchiveFaultError(msg)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        msg = f"compression method {info.compress_type}; only stored and deflated are read"
        raise ArchiveFaultError(msg)
    return info


def _check_size(size: int, packed: int, most: int) -> None:
    if size > most:
        msg = f"the member has {size:,} bytes, at most {most:,} are unpacked"
        raise ArchiveFaultError(msg)
    if size > packed * RATIO + SPARE:
        msg = f"the member claims {size:,} bytes out of {packed:,}; that is no data"
        raise ArchiveFaultError(msg)


def _bounded(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the member's blocks; it must have just the size that it claims."""
    n_bytes = 0
    while block := _read(file):
        n_bytes += len(block)
        if n_bytes > size:
            break
        yield block
    if n_bytes != size:
        msg = f"the member claims {size:,} bytes, {n_bytes:,} came"
        raise ArchiveFaultError(msg)


def _read(file: IO[bytes]) -> bytes:
    try:
        return file.read(_BLOCK)
    except OSError as error:  # which would else look like a failure to write
        msg = f"the archive cannot be read: {str(error)[:200]}"
        raise ArchiveFaultError(msg) from None
