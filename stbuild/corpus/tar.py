"""The tar bytes of a shard: plain USTAR, every header field fixed.

A tar has no integrity of its own, so the index holds the offset, size and digest of each sample.
Here are the bytes of a sample's members, and their strict reading. No file is opened here and
nothing is ever extracted.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from stbuild.corpus.errors import IntegrityError, Problem

BLOCK: Final = 512
END: Final = b"\0" * (2 * BLOCK)
"""End-of-archive mark: two zero blocks."""

_NAME_BYTES: Final = 100
_NAME = re.compile(rb"[a-z0-9_-]{1,84}(\.[a-z0-9]{1,16}){1,2}")
_OCTAL = re.compile(rb"[0-7]{11}\0")


@lru_cache(maxsize=1)
def _template() -> bytes:
    """Return a header as tarfile writes it, with the name, size and checksum still to fill in."""
    info = tarfile.TarInfo()
    info.mode = 0o644
    header = bytearray(info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii", errors="strict"))
    header[148:156] = b" " * 8
    return bytes(header)


def _header(name: str, size: int) -> bytes:
    # tarfile itself needs 28 us a header, a tenth of the time that a patch takes to build.
    encoded = name.encode("ascii")
    if len(encoded) > _NAME_BYTES or size >= 8**11:
        msg = f"member {name!r} of {size} bytes does not fit a USTAR header"
        raise ValueError(msg)
    header = bytearray(_template())
    header[: len(encoded)] = encoded
    header[124:135] = b"%011o" % size
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pack_sample(key: str, members: Mapping[str, bytes]) -> bytes:
    """Return the tar blocks of one sample: each member's header, data and zero padding.

    Parameters
    ----------
    key
        Sample key; member names are ``<key>.<suffix>``.
    members
        Suffix to data, written in the order of the mapping.
    """
    parts: list[bytes] = []
    for suffix, data in members.items():
        parts += [_header(f"{key}.{suffix}", len(data)), data, b"\0" * (-len(data) % BLOCK)]
    return b"".join(parts)


def unpack_sample(raw: bytes | memoryview, where: str) -> tuple[str, dict[str, memoryview]]:
    """Split the tar blocks of one sample into its members, without copying.

    Returns
    -------
    tuple
        The key, and suffix to data in stored order.

    Raises
    ------
    IntegrityError
        Anything but regular USTAR members with one common key, distinct suffixes, and sizes
        that fill the buffer exactly.
    """
    members: dict[str, memoryview] = {}
    key: str | None = None
    for name, data in iter_members(raw, where):
        stem, _, suffix = name.partition(".")
        if key is not None and stem != key:
            raise _refused(where, f"member {name!r} inside sample {key!r}")
        if suffix in members:
            raise _refused(where, f"member {name!r} stands twice")
        key = stem
        members[suffix] = data
    if key is None:
        raise _refused(where, "no member at all")
    return key, members


def iter_members(raw: bytes | memoryview, where: str) -> Iterator[tuple[str, memoryview]]:
    """Yield (name, data) of consecutive members that fill `raw` exactly.

    Raises
    ------
    IntegrityError
        A header that is not plain USTAR of a regular file, a name outside the key grammar, a
        wrong checksum, or a size beyond the buffer.
    """
    view = memoryview(raw)
    position = 0
    while position < len(view):
        header = bytes(view[position : position + BLOCK])
        name, size = parse_header(header, where)
        start = position + BLOCK
        position = start + size + (-size % BLOCK)
        if position > len(view):
            raise _refused(where, f"member {name!r} claims {size:,} bytes, more than there are")
        yield name, view[start : start + size]


def parse_header(header: bytes, where: str) -> tuple[str, int]:
    """Return (name, size) of a USTAR header of a regular file.

    Raises
    ------
    IntegrityError
        Any other member type, PAX or GNU extensions, a prefix, a bad checksum or name.
    """
    name = header[:100].rstrip(b"\0")
    regular = header[156:157] == b"0" and header[257:265] == b"ustar\x0000"
    if len(header) != BLOCK or not regular or header[345:500].strip(b"\0"):
        raise _refused(where, "a tar header that is not plain USTAR of a regular file")
    if not _NAME.fullmatch(name) or not _OCTAL.fullmatch(header[124:136]):
        raise _refused(where, f"member name {name[:60]!r} or its size is outside the format")
    actual = sum(header) - sum(header[148:156]) + 8 * 0x20
    if header[148:156] != b"%06o\0 " % actual:
        raise _refused(where, f"header checksum of {name.decode()!r} is wrong")
    return name.decode(), int(header[124:135], 8)


def _refused(where: str, what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get the damaged shard again"
    return IntegrityError(Problem(code="L10", subject="shard", where=where, what=what, fix=fix))
