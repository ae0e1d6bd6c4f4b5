"""The directory of a ZIP archive, measured before Python's reader loads all of it.

No member is read here.
"""

import struct
from pathlib import Path
from typing import Final

from stbuild.fetch.errors import ArchiveFaultError

_END: Final = b"PK\x05\x06"
_LOCATOR: Final = b"PK\x06\x07"
_END_64: Final = b"PK\x06\x06"
_TAIL: Final = 22 + 65_535 + 20
_LARGEST: Final = 32 << 20
"""Bytes of a directory: room for a few hundred thousand members."""


def check_directory(archive: Path) -> None:
    """Refuse a directory that would fill the memory.

    Raises
    ------
    ArchiveFaultError
        The directory is larger than 32 MiB, or cannot be found.
    """
    with archive.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - _TAIL))
        tail = file.read(_TAIL)
        at = tail.rfind(_END)
        if at < 0 or at + 22 > len(tail):
            msg = "the archive is damaged: it has no directory"
            raise ArchiveFaultError(msg)
        (size,) = struct.unpack_from("<L", tail, at + 12)
        if tail[at - 20 : at - 16] == _LOCATOR and at >= 20:
            (place,) = struct.unpack_from("<Q", tail, at - 12)
            file.seek(min(place, end))
            record = file.read(56)
            if len(record) < 56 or not record.startswith(_END_64):
                msg = "the archive is damaged: its large directory is not where it says"
                raise ArchiveFaultError(msg)
            (size,) = struct.unpack_from("<Q", record, 40)
    if size > _LARGEST:
        msg = f"the archive's directory claims {size:,} bytes, at most {_LARGEST:,} are read"
        raise ArchiveFaultError(msg)
