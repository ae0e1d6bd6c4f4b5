"""Grids on disk: one Zarr v3 store per slice, with an inventory that is checked before use.

A deleted chunk reads as zeros without an error and Blosc misses bit flips, so every chunk carries
a CRC32C, empty chunks are written, and every file stands in the inventory with its digest. One
task owns one store. Only this module touches zarr.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_array
from zarr.codecs import BloscCodec, Crc32cCodec

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.documents import Document, FileEntry, Sha256, read_document
from stbuild.corpus.durable import PARTIAL, guard_disk, sync_directory
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.jsonio import dump_canonical, load_strict
from stbuild.counts import as_csr
from stbuild.grids import Box, Grid, GridMeta, Members, Region

INVENTORY: Final = "inventory.json"
_CHUNK: Final = 8
"""Sites per side of a chunk of counts; all genes of a site lie in one chunk."""
_SHARD_BYTES: Final = 128 * 2**20
"""Largest decoded Zarr shard: one per slice up to this size, squarish blocks beyond it."""
_READ_BYTES: Final = 64 * 2**20
"""Dense counts that are decoded at a time."""


class Inventory(Document):
    """``inventory.json`` of a grid: every file of the store, written last."""

    format: Literal["stcorpus/grid"] = names.FORMAT_GRID
    version: Literal[1] = names.VERSION
    fingerprint: Sha256
    """Digest of source and configuration: what a rerun compares."""
    content: Sha256
    files: tuple[FileEntry, ...]


def write_grid(path: Path, grid: Grid, fingerprint: str) -> None:
    """Write a grid so that it appears whole, by the rename of its directory.

    Parameters
    ----------
    path
        ``<slug>.zarr``; what stands there is replaced.
    grid
        The grid.
    fingerprint
        Digest of source and configuration.

    Raises
    ------
    ResourceError
        The disk is full, read-only, or otherwise refuses.
    """
    guard_disk(path, lambda: _write(path, grid, fingerprint))


def _write(path: Path, grid: Grid, fingerprint: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _write_arrays(temporary, grid)
        files = tuple(_entries(temporary))
        inventory = Inventory(fingerprint=fingerprint, content=grid.meta.content, files=files)
        (temporary / INVENTORY).write_bytes(inventory.to_bytes())
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        if path.exists():
            # A directory cannot replace another in one step: without its inventory's match the
            # old one would be rebuilt anyway, so it goes first.
            shutil.rmtree(path)
        temporary.rename(path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_directory(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entries(root: Path) -> Iterator[FileEntry]:
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.name != INVENTORY:
            path = file.relative_to(root).as_posix()
            yield FileEntry(path=path, bytes=file.stat().st_size, sha256=sha256_file(file))


def _write_arrays(path: Path, grid: Grid) -> None:
    H, W = grid.meta.shape
    K = grid.meta.n_genes
    attributes: dict[str, Any] = {"stcorpus": grid.meta.model_dump(mode="json")}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    dtype = np.dtype(np.uint16 if grid.meta.max_count <= np.iinfo(np.uint16).max else np.uint32)
    height, width = _shard_shape(H, W, K * dtype.itemsize)
    counts = group.create_array(
        "counts",
        shape=(H, W, K),
        dtype=dtype,
        chunks=(_CHUNK, _CHUNK, K),
        shards=(height, width, K),
        compressors=[
            BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=("row", "col", "gene"),
        config={"write_empty_chunks": True},
    )
    for top in range(0, H, height):
        for left in range(0, W, width):
            box = Box(top, min(top + height, H), left, min(left + width, W))
            counts[box.top : box.bottom, box.left : box.right] = _dense(grid, box, dtype)
    cells = {
        "total": (grid.totals, np.uint32, 0),
        "spot": (np.arange(len(grid.barcodes)), np.int32, -1),
        "label": (grid.labels, np.int16, -1),
    }
    for name, (values, kind, empty) in cells.items():
        dense = np.full((H, W), empty, kind)
        dense[grid.rows, grid.cols] = values
        _small_array(group, name, dense, ("row", "col"))
    _small_array(group, "xy", grid.xy, ("spot", "axis"))
    _small_array(group, "barcodes", _pack_text(grid.barcodes), ("byte",))
    _small_array(group, "genes", _pack_text(grid.genes), ("byte",))
    if grid.members is not None:
        _small_array(group, "members", _pack_text(grid.members.barcodes), ("byte",))
        _small_array(group, "member_spots", grid.members.spots, ("member",))


def _shard_shape(H: int, W: int, cell_bytes: int) -> tuple[int, int]:
    """Return rows and columns of a Zarr shard: the whole grid, or squarish blocks of it."""
    cells = max(_CHUNK * _CHUNK, _SHARD_BYTES // max(1, cell_bytes))
    height, width = -(-H // _CHUNK) * _CHUNK, -(-W // _CHUNK) * _CHUNK
    if height * width > cells:
        side = max(_CHUNK, int(cells**0.5) // _CHUNK * _CHUNK)
        width = min(width, side)
        height = min(height, max(_CHUNK, cells // width // _CHUNK * _CHUNK))
    return height, width


def _dense(grid: Grid, box: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the counts of a part of the grid as a dense (rows, columns, K) array."""
    dense = np.zeros((*box.shape, grid.meta.n_genes), dtype)
    for row in range(box.top, box.bottom):
        # A grid row at a time: no copy of more than one row of spots is made.
        first, last = np.searchsorted(grid.rows, [row, row + 1])
        first, last = first + np.searchsorted(grid.cols[first:last], [box.left, box.right])
        part = grid.counts[first:last].astype(dtype).toarray()
        dense[row - box.top, grid.cols[first:last] - box.left] = part
    return dense


def _small_array(
    group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...]
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=[
            BloscCodec(typesize=values.dtype.itemsize, cname="zstd", clevel=3, shuffle="shuffle"),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=dimensions,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _pack_text(lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return ids as UTF-8 bytes, each ended by a newline (ids hold no control characters)."""
    return np.frombuffer("".join(f"{line}\n" for line in lines).encode(), np.uint8)


def _unpack_text(packed: NDArray[np.uint8]) -> list[str]:
    return packed.tobytes().decode().split("\n")[:-1]


def read_inventory(path: Path) -> Inventory | None:
    """Return the inventory of a grid, or None where no finished grid stands.

    Raises
    ------
    IntegrityError
        The inventory is unreadable.
    """
    file = path / INVENTORY
    return read_document(Inventory, file.read_bytes(), str(file)) if file.is_file() else None


def check_grid(path: Path) -> list[Problem]:
    """Compare every file of a grid with its inventory and return what is wrong."""
    inventory = read_inventory(path)
    if inventory is None:
        return [_problem(path, "no inventory: the grid is unfinished or not ours")]
    problems = []
    for entry in inventory.files:
        file = path / entry.path
        if file.is_symlink() or not file.is_file():
            problems.append(_problem(file, "missing; Zarr would read it as zeros"))
        elif file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
            problems.append(_problem(file, "its size or SHA-256 is not the one in the inventory"))
    listed = {entry.path for entry in inventory.files} | {INVENTORY}
    present = [file for file in sorted(path.rglob("*")) if file.is_file()]
    extra = [file for file in present if file.relative_to(path).as_posix() not in listed]
    problems += [_problem(file, "a file that the inventory does not list") for file in extra]
    return problems


def read_meta(path: Path) -> GridMeta:
    """Return the attributes of a grid without its arrays.

    Raises
    ------
    IntegrityError
        Missing, damaged or of an unknown format.
    """
    file = path / "zarr.json"
    if not file.is_file():
        raise IntegrityError(_problem(file, "missing"))
    document = load_strict(file.read_bytes(), str(file))
    attributes = document.get("attributes", {}) if isinstance(document, dict) else {}
    raw = dump_canonical(attributes.get("stcorpus", {}))
    return read_document(GridMeta, raw, f"{file}:/attributes/stcorpus")


class StoredGrid:
    """A grid on disk that is read part by part; every file of it was checked when it was opened.

    Parameters
    ----------
    path
        The Zarr store.

    Raises
    ------
    IntegrityError
        A missing, extra or changed file, each by name; or arrays that contradict each other.
    """

    def __init__(self, path: Path) -> None:
        if problems := check_grid(path):
            raise IntegrityError(*problems)
        self.meta = read_meta(path)
        self._group = zarr.open_group(path, mode="r", zarr_format=3)
        self._spot = _array(self._group, "spot")[...]
        self._total = _array(self._group, "total")[...]
        self._label = _array(self._group, "label")[...]
        rows, cols = np.nonzero(self._spot >= 0)
        # Grid order is row by row, so the spot numbers must simply count up.
        if not np.array_equal(self._spot[rows, cols], np.arange(self.meta.n_spots)):
            raise IntegrityError(_problem(path, "spot numbers are not in grid order"))
        self.genes: Sequence[str] = _unpack_text(_array(self._group, "genes")[...])

    def occupied(self) -> NDArray[np.bool_]:
        """Return the (H, W) mask of observed cells."""
        return np.asarray(self._spot >= 0)

    def whole_box(self) -> Box:
        """Return the box of all cells."""
        return Box(0, self.meta.shape[0], 0, self.meta.shape[1])

    def cells(self, box: Box) -> Region:
        """Read the observed spots of a part of the grid.

        Raises
        ------
        IntegrityError
            Counts outside the observed cells.
        """
        part = np.s_[box.top : box.bottom, box.left : box.right]
        spot = self._spot[part]
        rows, cols = np.nonzero(spot >= 0)
        return Region(
            meta=self.meta,
            box=box,
            counts=_read_counts(_array(self._group, "counts"), spot, box, self.meta),
            genes=self.genes,
            totals=self._total[part][rows, cols],
            rows=rows.astype(np.int32),
            cols=cols.astype(np.int32),
            labels=self._label[part][rows, cols],
            numbers=spot[rows, cols],
        )

    def spots(self) -> Grid:
        """Read ids, cells, positions and labels; the counts are left out: all are zero."""
        nothing = np.zeros(0, np.uint32)
        starts = np.zeros(self.meta.n_spots + 1, np.int32)
        shape = (self.meta.n_spots, self.meta.n_genes)
        return self._gather(as_csr(nothing, nothing.astype(np.int32), starts, shape))

    def whole(self) -> Grid:
        """Read all of it, ids and positions included."""
        return self._gather(self.cells(self.whole_box()).counts)

    def _gather(self, counts: csr_array) -> Grid:
        rows, cols = np.nonzero(self._spot >= 0)
        members = None
        if "members" in self._group:
            members = Members(
                barcodes=_unpack_text(_array(self._group, "members")[...]),
                spots=_array(self._group, "member_spots")[...],
            )
        return Grid(
            meta=self.meta,
            counts=counts,
            genes=self.genes,
            totals=self._total[rows, cols],
            rows=rows.astype(np.int32),
            cols=cols.astype(np.int32),
            xy=_array(self._group, "xy")[...],
            labels=self._label[rows, cols],
            barcodes=_unpack_text(_array(self._group, "barcodes")[...]),
            members=members,
        )


def read_grid(path: Path) -> Grid:
    """Read a whole grid after checking every file of it against the inventory.

    Raises
    ------
    IntegrityError
        A missing, extra or changed file, each by name; or arrays that contradict each other.
    """
    return StoredGrid(path).whole()


def read_genes(path: Path) -> list[str]:
    """Return the gene ids of a grid, sorted, without its counts."""
    group = zarr.open_group(path, mode="r", zarr_format=3)
    return _unpack_text(_array(group, "genes")[...])


def _array(group: zarr.Group, name: str) -> Any:  # noqa: ANN401 - zarr's indexing is loosely typed
    return group[name]


def _read_counts(
    array: Any,  # noqa: ANN401 - zarr's indexing is loosely typed
    spot: NDArray[np.int32],
    box: Box,
    meta: GridMeta,
) -> csr_array:
    K = meta.n_genes
    step = max(1, _READ_BYTES // max(1, box.shape[1] * K * array.dtype.itemsize) // _CHUNK) * _CHUNK
    data: list[NDArray[np.uint32]] = []
    indices: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    # Blocks end with the chunks, so that no chunk is decoded twice.
    edges = sorted(
        {box.top, *range(-(-(box.top + 1) // step) * step, box.bottom, step), box.bottom}
    )
    for top, bottom in pairwise(edges):
        dense = array[top:bottom, box.left : box.right].reshape(-1, K)
        per_cell = np.count_nonzero(dense, axis=1)
        flat = np.flatnonzero(dense)
        # A gene is what is left of a flat position after its cell; cheaper than a division.
        indices.append((flat - np.repeat(np.arange(len(dense)) * K, per_cell)).astype(np.int32))
        data.append(dense.reshape(-1)[flat].astype(np.uint32))
        observed = np.flatnonzero(spot[top - box.top : bottom - box.top].ravel() >= 0)
        lengths.append(per_cell[observed])
    indptr = np.cumsum(np.concatenate(lengths))
    if int(indptr[-1]) != sum(part.size for part in data):
        raise IntegrityError(_problem(Path(meta.slug), "counts outside the observed cells"))
    return as_csr(np.concatenate(data), np.concatenate(indices), indptr, (int(indptr.size) - 1, K))


def grid_fingerprint(
    sources: list[list[str]], config: dict[str, Any], record: dict[str, Any]
) -> str:
    """Return the digest of all that decides a grid's content: sources, configuration, record."""
    value = {"sources": sources, "config": config, "record": record, "version": names.VERSION}
    return sha256_bytes(dump_canonical(value))


def _problem(path: Path, what: str) -> Problem:
    fix = "delete this grid and run the same `stbuild compact` again"
    return Problem(code="G01", subject=f"grid '{path.name}'", where=str(path), what=what, fix=fix)
