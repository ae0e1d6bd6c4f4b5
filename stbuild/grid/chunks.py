"""Zarr v3 arrays as grids hold them, chunk by chunk: what is written is what zarr-python writes.

Importing zarr takes a fifth of a second in each process, and it encodes the padding of a shard as
if it were data; a grid needs two kinds of array alone. Tests compare every byte with zarr-python's.
Only frames that these two kinds can have are read; anything else is refused.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.jsonio import load_strict
from stbuild.corpus.storage import read_file

CHUNK: Final = 8
"""Sites per side of a chunk of counts; all genes of a site lie in one chunk."""
_ZARR_JSON: Final = "zarr.json"
_HEADER: Final = 16
_ABSENT: Final = 2**64 - 1
"""Offset and size of a chunk that is not stored."""
_MAX_ARRAY_BYTES: Final = 2**33
Put: TypeAlias = Callable[[Path, bytes | Iterable[bytes]], None]
"""Writes a file, in blocks or at once; makes its folder."""
_TYPES: Final = ("uint8", "uint16", "uint32", "int16", "int32", "float64")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What ``zarr.json`` of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dimensions: tuple[str, ...]
    block: int = 0
    """Blosc block in bytes; 0 leaves it to Blosc."""
    shard: tuple[int, int] | None = None
    """Rows and columns of a Zarr shard of chunks of 8 x 8 sites; None: one chunk holds it all."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        if self.shard is not None:
            return CHUNK, CHUNK, self.shape[2]
        return tuple(max(1, n) for n in self.shape)

    def document(self) -> dict[str, Any]:
        """Return ``zarr.json``, its keys in zarr-python's order."""
        frames = self._codecs()
        outer = list(self.chunk)
        if self.shard is not None:
            plain = [_named("bytes", endian="little"), {"name": "crc32c"}]
            inner = {"chunk_shape": outer, "codecs": frames, "index_codecs": plain}
            frames = [_named("sharding_indexed", **inner, index_location="end")]
            outer = [*self.shard, self.shape[2]]
        return {
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": _named("regular", chunk_shape=outer),
            "chunk_key_encoding": _named("default", separator="/"),
            "fill_value": 0.0 if self.dtype.kind == "f" else 0,
            "codecs": frames,
            "attributes": {},
            "dimension_names": list(self.dimensions),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def _codecs(self) -> list[dict[str, Any]]:
        counts = self.shard is not None
        bytes_codec = (
            {"name": "bytes"} if self.dtype.itemsize == 1 else _named("bytes", endian="little")
        )
        packed = _named(
            "blosc",
            typesize=self.dtype.itemsize,
            cname="zstd",
            clevel=1 if counts else 3,
            shuffle="bitshuffle" if counts else "shuffle",
            blocksize=self.block,
        )
        return [bytes_codec, packed, {"name": "crc32c"}]

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return a chunk as its frame and checksum."""
        counts = self.shard is not None
        blosc.use_threads = False  # with threads its bytes vary from run to run
        mode = blosc.BITSHUFFLE if counts else blosc.SHUFFLE
        little = np.ascontiguousarray(values, self.dtype.newbyteorder("<"))
        return _checked(blosc.compress(little, b"zstd", 1 if counts else 3, mode, self.block))

    def decode(self, raw: bytes, out: NDArray[Any], where: Path) -> None:
        """Decode a chunk into a contiguous array; its declared sizes and checksum come first.

        Raises
        ------
        IntegrityError
            Damage, or a frame of another size.
        """
        frame = memoryview(raw)[:-4]
        claimed = int.from_bytes(frame[4:8], "little"), int.from_bytes(frame[12:16], "little")
        if len(frame) < _HEADER or claimed != (out.nbytes, len(frame)) or not _is_good(raw):
            raise _refused(where, "a chunk of another size, or with a wrong checksum")
        blosc.use_threads = False
        try:
            blosc.decompress(frame, out)
        except (RuntimeError, ValueError) as error:
            raise _refused(where, f"a chunk does not decompress: {error}") from error


def _named(name: str, **configuration: object) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _crc(raw: bytes) -> int:
    return int(google_crc32c.value(raw))


def _checked(raw: bytes) -> bytes:
    return raw + _crc(raw).to_bytes(4, "little")


def _is_good(raw: bytes) -> bool:
    return _crc(raw[:-4]) == int.from_bytes(raw[-4:], "little")


def write_json(put: Put, folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``zarr.json`` of a group or array into a new folder."""
    put(folder / _ZARR_JSON, json.dumps(document, indent=2).encode())


def write_group(put: Put, folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write an empty group with attributes into a new folder."""
    write_json(put, folder, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def write_small(put: Put, folder: Path, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
    """Write an array of one chunk into a new folder."""
    layout = Layout(shape=values.shape, dtype=values.dtype, dimensions=dimensions)
    write_json(put, folder, layout.document())
    if values.size:
        put(folder.joinpath("c", *("0" for _ in values.shape)), layout.encode(values))


def encode_shard(
    layout: Layout,
    origin: tuple[int, int],
    make: Callable[[int, int], NDArray[Any] | None],
) -> Iterator[bytes]:
    """Yield the bytes of one Zarr shard, in blocks.

    Parameters
    ----------
    layout
        Of the array.
    origin
        Row and column of its first cell.
    make
        Gives the (8, 8, K) chunk at a row and column; None is one of zeros. Chunks beyond the
        array are not asked for and not stored.
    """
    if layout.shard is None:
        msg = "only counts lie in shards"
        raise ValueError(msg)
    index = np.full((layout.shard[0] // CHUNK, layout.shard[1] // CHUNK, 2), _ABSENT, "<u8")
    offset, empty = 0, b""
    for place in shard_order(layout.shard):
        row, col = origin[0] + place[0] * CHUNK, origin[1] + place[1] * CHUNK
        if row >= layout.shape[0] or col >= layout.shape[1]:
            continue
        chunk = make(row, col)
        if chunk is None:
            empty = empty or layout.encode(np.zeros(layout.chunk, layout.dtype))
        raw = empty if chunk is None else layout.encode(chunk)
        index[place] = offset, len(raw)
        offset += len(raw)
        yield raw
    yield _checked(index.tobytes())


@lru_cache(maxsize=16)
def shard_order(shard: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return (row, column) of the chunks of a shard as zarr-python stores them: in Morton order."""
    height, width = shard[0] // CHUNK, shard[1] // CHUNK
    bits = (height - 1).bit_length(), (width - 1).bit_length()

    def code(place: tuple[int, int]) -> int:
        found = position = 0
        for bit in range(max(bits)):
            for axis in range(2):
                if bit < bits[axis]:
                    found |= (place[axis] >> bit & 1) << position
                    position += 1
        return found

    return tuple(sorted(((r, c) for r in range(height) for c in range(width)), key=code))


def read_layout(folder: Path) -> Layout:
    """Read and check ``zarr.json`` of an array.

    Raises
    ------
    IntegrityError
        Missing, damaged, or not as grids have it.
    """
    path = folder / _ZARR_JSON
    if not path.is_file():
        raise _refused(path, "missing")
    found = load_strict(read_file(path), str(path))
    try:
        outer = found["chunk_grid"]["configuration"]["chunk_shape"]
        sharded = found["codecs"][0]["name"] == "sharding_indexed"
        layout = Layout(
            shape=tuple(int(n) for n in found["shape"]),
            dtype=np.dtype(_TYPES[_TYPES.index(found["data_type"])]),
            dimensions=tuple(str(name) for name in found["dimension_names"]),
            block=_block_of(found["codecs"][0]) if sharded else 0,
            shard=(int(outer[0]), int(outer[1])) if sharded else None,
        )
        good = layout.document() == found and min(layout.shape, default=0) >= 0
    except (KeyError, IndexError, TypeError, ValueError):
        good = False
    if not good or (layout.shard is not None and min(layout.shard) < CHUNK):
        raise _refused(path, "not an array as grids have them")
    return layout


def _block_of(sharding: dict[str, Any]) -> int:
    return int(sharding["configuration"]["codecs"][1]["configuration"]["blocksize"])


def read_small(folder: Path) -> NDArray[Any]:
    """Read an array of one chunk.

    Raises
    ------
    IntegrityError
        Missing, damaged, or not as grids have it.
    """
    layout = read_layout(folder)
    if layout.shard is not None or prod(layout.shape) * layout.dtype.itemsize > _MAX_ARRAY_BYTES:
        raise _refused(folder / _ZARR_JSON, "not an array of one chunk")
    out = np.zeros(layout.shape, layout.dtype)
    path = folder.joinpath("c", *("0" for _ in layout.shape))
    if out.size:
        if not path.is_file():
            raise _refused(path, "missing")
        layout.decode(read_file(path), out, path)
    return out


class Counts:
    """The counts of a grid on disk, (H, W, K) in chunks of 8 x 8 sites.

    Parameters
    ----------
    folder
        The array.

    Raises
    ------
    IntegrityError
        Missing, damaged, or not as grids have it.
    """

    def __init__(self, folder: Path) -> None:
        self.layout = read_layout(folder)
        if self.layout.shard is None:
            raise _refused(folder / _ZARR_JSON, "counts that do not lie in shards")
        self._folder = folder
        self._height, self._width = self.layout.shard

    def chunks(
        self, top: int, bottom: int, left: int, right: int
    ) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield (row, column, (8, 8, K) counts) of the chunks that meet some cells.

        Every chunk comes in the same array: use it before asking for the next.

        Raises
        ------
        IntegrityError
            A shard is missing or damaged.
        """
        out = np.empty(self.layout.chunk, self.layout.dtype)
        for row in range(top // self._height, -(-bottom // self._height)):
            for col in range(left // self._width, -(-right // self._width)):
                path = self._folder / "c" / str(row) / str(col) / "0"
                if not path.is_file():
                    raise _refused(path, "missing")
                with path.open("rb", buffering=0) as file:
                    index = self._index(file, path)
                    for i, j in np.ndindex(index.shape[:2]):
                        y, x = row * self._height + i * CHUNK, col * self._width + j * CHUNK
                        if top < y + CHUNK and y < bottom and left < x + CHUNK and x < right:
                            offset, size = index[i, j].tolist()
                            raw = self._read(file, offset, size, path)
                            self.layout.decode(raw, out, path)
                            yield y, x, out

    @staticmethod
    def _read(file: BinaryIO | Any, offset: int, size: int, path: Path) -> bytes:  # noqa: ANN401
        total = os.fstat(file.fileno()).st_size
        if offset > total or size > total - offset:
            raise _refused(path, "a chunk is missing, or lies beyond the end of its shard")
        return os.pread(file.fileno(), size, offset)

    def _index(self, file: BinaryIO | Any, path: Path) -> NDArray[np.uint64]:  # noqa: ANN401
        """Return (rows, columns, 2) offsets and sizes of the chunks of a shard."""
        shape = self._height // CHUNK, self._width // CHUNK, 2
        size, total = prod(shape) * 8 + 4, os.fstat(file.fileno()).st_size
        raw = os.pread(file.fileno(), size, max(0, total - size))
        if len(raw) != size or not _is_good(raw):
            raise _refused(path, "the index of a shard is damaged")
        return np.frombuffer(raw[:-4], "<u8").reshape(shape)


def _refused(path: Path, what: str) -> IntegrityError:
    fix = "delete this grid and run the same `stbuild compact` again"
    return IntegrityError(Problem(code="G01", subject="grid", where=str(path), what=what, fix=fix))
