"""SHA-256 of bytes, files and logical content.

The content digest of a sample covers names, types, shapes and decoded values, so it is the same
whatever the compressor. It is the identity of the data; the digest of the file proves a download.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.storage import reading

_CHUNK = 1 << 20


def sha256_bytes(raw: bytes | memoryview) -> str:
    """Return the SHA-256 of `raw` as 64 hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks of 1 MiB.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ResourceError
        The storage fails while it is read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Return the SHA-256 of `value` as canonical JSON."""
    return sha256_bytes(dump_canonical(value))


def content_digest(
    arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, object] | bytes | None
) -> bytes:
    """Return the 32-byte digest of named arrays and one JSON object, free of any codec.

    SHA-256 over, for each array in the order of its sorted name, ``name NUL dtype NUL shape NUL``
    (dtype as in NumPy's type string, little-endian; shape as decimal sides joined by commas) and
    then its values in C order; at last ``json NUL`` and the canonical JSON of `meta`,
    which may be given as such.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        shape = ",".join(str(n) for n in little.shape)
        digest.update(f"{name}\0{little.dtype.str}\0{shape}\0".encode())
        digest.update(little.data if little.size else b"")
    if meta is not None:
        digest.update(b"json\0" + (meta if isinstance(meta, bytes) else dump_canonical(meta)))
    return digest.digest()


def chain_digest(keyed: Iterable[tuple[str, bytes]]) -> str:
    """Return the digest of a sequence of (key, content digest), in that order.

    SHA-256 over ``key NUL digest`` of each: the content digest of a shard.
    """
    digest = hashlib.sha256()
    for key, content in keyed:
        digest.update(key.encode() + b"\0" + content)
    return digest.hexdigest()


def lines_digest(lines: Iterable[str]) -> str:
    """Return the digest of a list of ids: SHA-256 of each followed by a newline, in order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
