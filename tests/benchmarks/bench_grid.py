"""Grids: writing and reading a slice's counts beside h5ad, HDF5 and Zarr as they come.

Ours checks every file against its inventory when it reads and syncs when it writes; the peers do
neither. All start from the same sparse counts and end with the whole slice in memory, or with the
counts of one window of 16 x 16 sites.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from stbuild.grid.grids import Box, Grid
from stbuild.grid.store import StoredGrid, read_grid, write_grid
from tests.benchmarks.bench import Bench
from tests.benchmarks.timing import take_turns, times_as_fast

HEAD = [
    "| store | MB | files | write, CPU ms | times h5ad | read whole, CPU ms | times h5ad | "
    "one window, CPU ms |",
    "|---|---:|---:|---:|---:|---:|---:|---:|",
]
BASE = "AnnData, `.h5ad` gzip"
_SIDE = 16


@dataclass(frozen=True)
class Store:
    """One way to keep a slice."""

    path: Path
    write: Callable[[], object]
    read: Callable[[], object]
    window: Callable[[], object]


def dense(grid: Grid) -> NDArray[np.uint16]:
    """Return the counts of a grid as an array (H, W, K)."""
    H, W = grid.meta.shape
    out = np.zeros((H, W, grid.meta.n_genes), np.uint16)
    out[grid.rows, grid.cols] = grid.counts.toarray()
    return out


def _again(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    return path


def stores(grid: Grid, work: Path) -> dict[str, Store]:
    """Return our store and its peers, for one slice.

    Parameters
    ----------
    grid
        The slice.
    work
        Scratch folder.
    """
    ours, h5ad, h5, plain = (work / name for name in ("g.zarr", "g.h5ad", "g.h5", "plain.zarr"))
    box = Box(0, _SIDE, 0, _SIDE)
    values = dense(grid)
    spots = np.flatnonzero((grid.rows < _SIDE) & (grid.cols < _SIDE))

    def write_h5ad(compression: Any) -> None:
        adata = anndata.AnnData(grid.counts.tocsr())
        adata.obs["row"], adata.obs["col"] = grid.rows, grid.cols
        adata.write_h5ad(_again(h5ad), compression=compression)

    def write_h5() -> None:
        with h5py.File(_again(h5), "w") as file:
            file.create_dataset("counts", data=values, compression="gzip", chunks=True)

    def read_h5(part: Any) -> Any:
        with h5py.File(h5) as file:
            return file["counts"][part]

    def write_plain() -> None:
        array = zarr.create_array(str(_again(plain)), shape=values.shape, dtype=values.dtype)
        array[:] = values

    part = np.s_[:_SIDE, :_SIDE]
    return {
        BASE: Store(
            h5ad,
            lambda: write_h5ad("gzip"),
            lambda: anndata.read_h5ad(h5ad),
            lambda: anndata.read_h5ad(h5ad, backed="r").X[spots],
        ),
        "stbuild grid, checked": Store(
            ours,
            lambda: write_grid(ours, grid, "0" * 64),
            lambda: read_grid(ours),
            lambda: StoredGrid(ours).cells(box),
        ),
        "HDF5, dense, gzip": Store(h5, write_h5, lambda: read_h5(...), lambda: read_h5(part)),
        "Zarr, dense, its own chunks": Store(
            plain,
            write_plain,
            lambda: zarr.open_array(str(plain), mode="r")[:],
            lambda: zarr.open_array(str(plain), mode="r")[part],
        ),
    }


def measure_grid(grid: Grid, work: Path, repeats: int) -> list[str]:
    """Write and read a slice in every way and return the rows."""
    work.mkdir(parents=True, exist_ok=True)
    kept = stores(grid, work)
    found = {
        act: take_turns({name: getattr(store, act) for name, store in kept.items()}, repeats)
        for act in ("write", "read", "window")
    }
    rows = []
    for name, store in kept.items():
        files = [f for f in (store.path, *store.path.rglob("*")) if f.is_file()]
        size = sum(f.stat().st_size for f in files) / 1e6
        cells = []
        for act in ("write", "read"):
            own = found[act][name]
            cells += [f"{1e3 * sorted(own)[len(own) // 2]:.0f}"]
            cells += [times_as_fast(own, found[act][BASE])]
        window = sorted(found["window"][name])[repeats // 2]
        rows.append(
            f"| {name} | {size:.1f} | {len(files)} | {' | '.join(cells)} | {1e3 * window:.1f} |"
        )
    return rows


def lines(bench: Bench) -> list[str]:
    """Measure one real section and return the table."""
    path = sorted(bench.grids().glob("*.zarr"))[0]
    grid = read_grid(path)
    H, W = grid.meta.shape
    what = f"{H} x {W} sites, {grid.meta.n_spots:,} spots, {grid.meta.n_genes:,} genes"
    rows = measure_grid(grid, bench.work / "stores", bench.repeats)
    return [f"One section ({what}).", "", *HEAD, *rows]
