"""Whether the Blosc frames of a foreign Zarr array are as long as they say.

Blosc does not learn how long its input is: a frame that was cut short makes it read on past the
end, and what happens to lie there becomes counts without an error. So every frame's own length is
compared with that of its file, or of its place in a Zarr shard, before zarr reads any of them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

_HEADER: Final = 16
"""Bytes of a frame's header; the last four are the length of the frame (c-blosc, README_HEADER)."""
_METADATA: Final = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_NO_CHUNK: Final = np.uint64(2**64 - 1)
"""Offset and length of a chunk that a shard does not hold (Zarr v3, sharding codec 1.0)."""


def check_frames(folder: Path) -> str | None:
    """Say what is wrong with the first Blosc frame of an array that is not as long as it says.

    Parameters
    ----------
    folder
        Folder of one array, Zarr v2 or v3; its metadata have been read without a fault.

    Returns
    -------
    str or None
        None where all are whole, or the chunks are not Blosc frames.
    """
    codecs, sharding = _codecs(folder)
    if not codecs or codecs[-1] != "blosc":
        return None
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _METADATA:
            size = path.stat().st_size
            with path.open("rb") as file:
                for offset, length in (
                    [(0, size)] if not sharding else _places(file, size, sharding)
                ):
                    said = _said(file, offset, length) if offset + length <= size else 0
                    if said != length:
                        name = path.relative_to(folder).as_posix()
                        return f"chunk {name!r:.80} holds {length:,} bytes; its frame says {said:,}"
    return None


def _codecs(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the codecs of a chunk, and how chunks are put into shards."""
    if not (folder / "zarr.json").is_file():
        compressor = json.loads((folder / ".zarray").read_bytes())["compressor"]
        return ([] if compressor is None else [compressor["id"]]), {}
    metadata = json.loads((folder / "zarr.json").read_bytes())
    codecs, sharding = metadata["codecs"], {}
    if codecs[0]["name"] == "sharding_indexed":
        shard_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        sharding = {**codecs[0]["configuration"], "shard_shape": shard_shape}
        codecs = sharding["codecs"]
    return [codec["name"] for codec in codecs], sharding


def _said(file: BinaryIO, offset: int, length: int) -> int:
    """Return the length of a frame by its own header, 0 where there is no room for one."""
    if length < _HEADER:
        return 0
    file.seek(offset)
    return int.from_bytes(file.read(_HEADER)[12:], "little")


def _places(file: BinaryIO, size: int, sharding: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the frames of a shard, by its index; zarr checks its CRC32C."""
    sides = zip(sharding["shard_shape"], sharding["chunk_shape"], strict=True)
    n_chunks = int(np.prod([whole // part for whole, part in sides], dtype=object))
    checked = any(codec["name"] == "crc32c" for codec in sharding["index_codecs"])
    n_bytes = 16 * n_chunks + 4 * checked
    if n_bytes > size:
        yield 0, n_bytes  # no room for the index itself
        return
    file.seek(0 if sharding.get("index_location") == "start" else size - n_bytes)
    index = np.frombuffer(file.read(16 * n_chunks), "<u8").reshape(n_chunks, 2)
    yield from index[(index != _NO_CHUNK).any(axis=1)].tolist()
