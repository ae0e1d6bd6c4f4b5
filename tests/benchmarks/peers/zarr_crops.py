"""Zarr: dense (rows, columns, genes) arrays in zarr's own chunks; windows cropped at random."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import zarr

from tests.benchmarks.peers.protocol import BATCH, Data, Peer, log1p_cp10k

PACKAGES = ("zarr", "numcodecs")
WHAT = "windows of dense arrays in zarr's own chunks, read whole, genes picked after it"


def _write(path: Path, out: Path, *, floats: bool) -> Any:
    adata = anndata.read_h5ad(path)
    rows, cols = (adata.obs[name].to_numpy() for name in ("row", "col"))
    values = adata.X.toarray()
    if floats:
        values = log1p_cp10k(values, adata.obs["total"].to_numpy()[:, None])
    dense = np.zeros((rows.max() + 1, cols.max() + 1, values.shape[1]), values.dtype)
    dense[rows, cols] = values
    array = zarr.create_array(str(out), shape=dense.shape, dtype=dense.dtype)
    array[:] = dense
    return array


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of arrays and open them."""
    P = data.counts.shape[-1]
    arrays = {
        kind: [
            _write(path, work / f"{kind}-{path.stem}.zarr", floats=kind == "floats")
            for path in data.slices
        ]
        for kind in ("int", "floats")
    }

    def crop(kind: str, i: int) -> Any:
        number, row, col = data.places[i]
        window = arrays[kind][number][row : row + P, col : col + P]
        out = np.zeros((P, P, data.genes.shape[1]), window.dtype)
        out[: window.shape[0], : window.shape[1]] = window[:, :, data.genes[i]]
        return out

    def read(kind: str) -> Iterator[Any]:
        for start in range(0, len(data.places), BATCH):
            stop = min(start + BATCH, len(data.places))
            yield np.stack([crop(kind, i) for i in range(start, stop)])

    stored = {
        name: [work / f"{kind}-{path.stem}.zarr" for path in data.slices]
        for name, kind in (("integers", "int"), ("floats", "floats"))
    }
    return Peer(
        integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored, site_major=True
    )
