"""Grids on disk: one Zarr v3 store per slice, with an inventory that is checked before use.

A deleted chunk reads as zeros without an error and Blosc misses bit flips, so every chunk carries
a CRC32C, empty chunks are written, and every file stands in the inventory with its digest. One
task owns one store. Only this module touches zarr.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
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
from stbuild.grids import Grid, GridMeta

INVENTORY: Final = "inventory.json"
_CHUNK: Final = 8
"""Sites per side of a chunk of counts; all genes of a site lie in one chunk."""
_SHARD_BYTES: Final = 512 * 2**20
"""Largest decoded Zarr shard: one per slice up to this size, bands of rows beyond it."""


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
    largest = int(grid.counts.data.max(initial=0))
    dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
    band = _rows_per_shard(W, K, dtype.itemsize, H)
    width = -(-W // _CHUNK) * _CHUNK
    counts = group.create_array(
        "counts",
        shape=(H, W, K),
        dtype=dtype,
        chunks=(_CHUNK, _CHUNK, K),
        shards=(band, width, K),
        compressors=[
            BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=("row", "col", "gene"),
        config={"write_empty_chunks": True},
    )
    for start in range(0, H, band):
        counts[start : start + band] = _dense_rows(grid, start, min(start + band, H), dtype)
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


def _rows_per_shard(W: int, K: int, itemsize: int, H: int) -> int:
    row_bytes = max(1, W * K * itemsize)
    rows = min(H, max(1, _SHARD_BYTES // row_bytes))
    return -(-rows // _CHUNK) * _CHUNK if rows == H else max(_CHUNK, rows // _CHUNK * _CHUNK)


def _dense_rows(grid: Grid, start: int, stop: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return grid rows `start` to `stop` as a dense (stop - start, W, K) array."""
    first, last = np.searchsorted(grid.rows, [start, stop])
    dense = np.zeros((stop - start, grid.meta.shape[1], grid.meta.n_genes), dtype)
    cells = grid.rows[first:last] - start, grid.cols[first:last]
    dense[cells] = grid.counts[first:last].astype(dtype).toarray()
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


def read_grid(path: Path) -> Grid:
    """Read a grid after checking every file of it against the inventory.

    Raises
    ------
    IntegrityError
        A missing, extra or changed file, each by name; or arrays that contradict each other.
    """
    if problems := check_grid(path):
        raise IntegrityError(*problems)
    meta = read_meta(path)
    group = zarr.open_group(path, mode="r", zarr_format=3)
    spot = _array(group, "spot")[...]
    rows, cols = np.nonzero(spot >= 0)
    # Grid order is row by row, so the spot numbers must simply count up.
    if not np.array_equal(spot[rows, cols], np.arange(meta.n_spots)):
        raise IntegrityError(_problem(path, "spot numbers are not in grid order"))
    return Grid(
        meta=meta,
        counts=_read_counts(_array(group, "counts"), spot, meta),
        genes=_unpack_text(_array(group, "genes")[...]),
        totals=_array(group, "total")[...][rows, cols],
        rows=rows.astype(np.int32),
        cols=cols.astype(np.int32),
        xy=_array(group, "xy")[...],
        labels=_array(group, "label")[...][rows, cols],
        barcodes=_unpack_text(_array(group, "barcodes")[...]),
    )


def read_genes(path: Path) -> list[str]:
    """Return the gene ids of a grid, sorted, without its counts."""
    group = zarr.open_group(path, mode="r", zarr_format=3)
    return _unpack_text(_array(group, "genes")[...])


def _array(group: zarr.Group, name: str) -> Any:  # noqa: ANN401 - zarr's indexing is loosely typed
    return group[name]


def _read_counts(array: Any, spot: NDArray[np.int32], meta: GridMeta) -> csr_array:  # noqa: ANN401
    K = meta.n_genes
    band = array.shards[0]
    data: list[NDArray[np.uint32]] = []
    indices: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for start in range(0, meta.shape[0], band):
        dense = array[start : start + band].reshape(-1, K)
        per_cell = np.count_nonzero(dense, axis=1)
        flat = np.flatnonzero(dense)
        # A gene is what is left of a flat position after its cell; cheaper than a division.
        indices.append((flat - np.repeat(np.arange(len(dense)) * K, per_cell)).astype(np.int32))
        data.append(dense.reshape(-1)[flat].astype(np.uint32))
        observed = np.flatnonzero(spot[start : start + band].ravel() >= 0)
        lengths.append(per_cell[observed])
    indptr = np.cumsum(np.concatenate(lengths))
    if int(indptr[-1]) != sum(part.size for part in data):
        raise IntegrityError(_problem(Path(meta.slug), "counts outside the observed cells"))
    return csr_array(
        (np.concatenate(data), np.concatenate(indices), indptr), shape=(meta.n_spots, K)
    )


def grid_fingerprint(source_sha256: str, config: dict[str, Any], record: dict[str, Any]) -> str:
    """Return the digest of all that decides a grid's content: source, configuration, record."""
    value = {"source": source_sha256, "config": config, "record": record, "version": names.VERSION}
    return sha256_bytes(dump_canonical(value))


def _problem(path: Path, what: str) -> Problem:
    fix = "delete this grid and run the same `stbuild compact` again"
    return Problem(code="G01", subject=f"grid '{path.name}'", where=str(path), what=what, fix=fix)
