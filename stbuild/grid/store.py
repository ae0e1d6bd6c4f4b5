"""Grids on disk: one Zarr v3 store per slice, with an inventory that is checked before use.

A deleted chunk reads as zeros without an error and Blosc misses bit flips, so every chunk carries
a CRC32C, empty chunks are written, and every file stands in the inventory with its digest. One
task owns one store. Its arrays are made in :mod:`stbuild.grid.arrays`.
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.documents import Document, FileEntry, Sha256, read_document
from stbuild.corpus.durable import PARTIAL, guard_disk, sync_directory
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.jsonio import dump_canonical, load_strict
from stbuild.corpus.storage import read_file
from stbuild.counts import as_csr
from stbuild.grid.arrays import write_arrays
from stbuild.grid.chunks import CHUNK, Counts, read_small
from stbuild.grid.grids import Box, Grid, GridMeta, Members, Region, Sites
from stbuild.grid.written import WrittenFiles

INVENTORY: Final = "inventory.json"
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
    IntegrityError
        What was read back is not what was written.
    ResourceError
        The disk is full, read-only, or otherwise refuses.
    """
    guard_disk(path, lambda: _write(path, grid, fingerprint))


def _write(path: Path, grid: Grid, fingerprint: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        files = WrittenFiles(temporary)
        write_arrays(temporary, grid, files.write)
        inventory = Inventory(
            fingerprint=fingerprint, content=grid.meta.content, files=files.entries()
        )
        files.write(temporary / INVENTORY, inventory.to_bytes())
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        files.read_back(path)
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
    return read_document(Inventory, read_file(file), str(file)) if file.is_file() else None


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
    document = load_strict(read_file(file), str(file))
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
        self._path = path
        self._spot = read_small(path / "spot")
        self._total = read_small(path / "total")
        self._label = read_small(path / "label")
        self._counts = Counts(path / "counts")
        shapes = {array.shape for array in (self._spot, self._total, self._label)}
        if shapes != {self.meta.shape} or self._counts.layout.shape != (
            *self.meta.shape,
            self.meta.n_genes,
        ):
            raise IntegrityError(_problem(path, "arrays of different shapes"))
        rows, cols = np.nonzero(self._spot >= 0)
        # Grid order is row by row, so the spot numbers must simply count up.
        if not np.array_equal(self._spot[rows, cols], np.arange(self.meta.n_spots)):
            raise IntegrityError(_problem(path, "spot numbers are not in grid order"))
        self.genes: Sequence[str] = _unpack_text(read_small(path / "genes"))

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
        spot = self._spot[box.top : box.bottom, box.left : box.right]
        return Region(counts=self._read_counts(spot, box), **vars(self.sites(box)))

    def sites(self, box: Box) -> Sites:
        """Return the observed spots of a part of the grid, without their counts."""
        part = np.s_[box.top : box.bottom, box.left : box.right]
        spot = self._spot[part]
        rows, cols = np.nonzero(spot >= 0)
        return Sites(
            meta=self.meta,
            box=box,
            genes=self.genes,
            totals=self._total[part][rows, cols],
            rows=rows.astype(np.int32),
            cols=cols.astype(np.int32),
            labels=self._label[part][rows, cols],
            numbers=spot[rows, cols],
        )

    def fill_counts(
        self, box: Box, out: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> None:
        """Decode the counts of a part of the grid.

        Parameters
        ----------
        box
            The part.
        out
            (h, w, G) array to fill, of a type that holds them; it may reach past the part.
        columns
            (G,) genes to take; None takes all.

        Raises
        ------
        IntegrityError
            Counts outside the observed cells.
        """
        for y, x, chunk in self._counts.chunks(*box):
            top, bottom = max(y, box.top), min(y + CHUNK, box.bottom)
            left, right = max(x, box.left), min(x + CHUNK, box.right)
            block = chunk[top - y : bottom - y, left - x : right - x]
            unseen = self._spot[top:bottom, left:right] < 0
            if unseen.any() and block[unseen].any():
                raise IntegrityError(_problem(self._path, "counts outside the observed cells"))
            target = out[top - box.top : bottom - box.top, left - box.left : right - box.left]
            target[...] = block if columns is None else block[:, :, columns]

    def _read_counts(self, spot: NDArray[np.int32], box: Box) -> csr_array:
        """Return the counts of the observed spots of a part, in bands of bounded memory."""
        K, dtype = self.meta.n_genes, self._counts.layout.dtype
        row_bytes = max(1, box.shape[1] * K * dtype.itemsize)
        step = max(1, _READ_BYTES // row_bytes // CHUNK) * CHUNK
        data: list[NDArray[np.uint32]] = []
        indices: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        # Blocks end with the chunks, so that no chunk is decoded twice.
        edges = sorted(
            {box.top, *range(-(-(box.top + 1) // step) * step, box.bottom, step), box.bottom}
        )
        for top, bottom in pairwise(edges):
            band = np.empty((bottom - top, box.shape[1], K), dtype)
            self.fill_counts(Box(top, bottom, box.left, box.right), band)
            dense = band.reshape(-1, K)
            per_cell = np.count_nonzero(dense, axis=1)
            flat = np.flatnonzero(dense)
            # A gene is what is left of a flat position after its cell; cheaper than a division.
            indices.append((flat - np.repeat(np.arange(len(dense)) * K, per_cell)).astype(np.int32))
            data.append(dense.reshape(-1)[flat].astype(np.uint32))
            lengths.append(per_cell[spot[top - box.top : bottom - box.top].ravel() >= 0])
        indptr = np.cumsum(np.concatenate(lengths))
        shape = (int(indptr.size) - 1, K)
        return as_csr(np.concatenate(data), np.concatenate(indices), indptr, shape)

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
        if (self._path / "members").is_dir():
            members = Members(
                barcodes=_unpack_text(read_small(self._path / "members")),
                spots=read_small(self._path / "member_spots"),
            )
        return Grid(
            meta=self.meta,
            counts=counts,
            genes=self.genes,
            totals=self._total[rows, cols],
            rows=rows.astype(np.int32),
            cols=cols.astype(np.int32),
            xy=read_small(self._path / "xy"),
            labels=self._label[rows, cols],
            barcodes=_unpack_text(read_small(self._path / "barcodes")),
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
    return _unpack_text(read_small(path / "genes"))


def grid_fingerprint(
    sources: list[list[str]], config: dict[str, Any], record: dict[str, Any]
) -> str:
    """Return the digest of all that decides a grid's content: sources, configuration, record."""
    value = {"sources": sources, "config": config, "record": record, "version": names.VERSION}
    return sha256_bytes(dump_canonical(value))


def _problem(path: Path, what: str) -> Problem:
    fix = "delete this grid and run the same `stbuild compact` again"
    return Problem(code="G01", subject=f"grid '{path.name}'", where=str(path), what=what, fix=fix)
