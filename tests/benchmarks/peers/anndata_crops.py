"""AnnData: 32 windows a batch, cropped by spot and gene, from memory or backed by the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.peers.protocol import BATCH, Data, Peer, log1p_cp10k

PACKAGES = ("anndata", "scipy", "h5py")
WHAT = "windows cropped as `adata[spots, genes].X`, dense after it; floats normalised beforehand"


class Slice:
    """One slice: counts or log1p(CP10K) by spot, and which spot is in which cell."""

    def __init__(self, path: Path, *, backed: bool) -> None:
        self.adata = anndata.read_h5ad(path, backed="r" if backed else None)
        rows, cols = (self.adata.obs[name].to_numpy() for name in ("row", "col"))
        self.spots: NDArray[np.int64] = np.full((rows.max() + 65, cols.max() + 65), -1)
        self.spots[rows, cols] = np.arange(len(rows))

    def crop(self, row: int, col: int, side: int, genes: NDArray[Any]) -> NDArray[Any]:
        """Return the (side * side, M) values of a window; sites without a spot are 0."""
        spots = self.spots[row : row + side, col : col + side].ravel()
        there = np.flatnonzero(spots >= 0)
        found = self.adata[spots[there], genes].X
        out = np.zeros((side * side, len(genes)), found.dtype)
        out[there] = found.toarray()
        return out


def _write_floats(path: Path, out: Path) -> Path:
    adata = anndata.read_h5ad(path)
    rows = np.repeat(adata.obs["total"].to_numpy(), np.diff(adata.X.indptr))
    adata.X = adata.X.astype(np.float32)
    adata.X.data = log1p_cp10k(adata.X.data, rows)
    adata.write_h5ad(out)
    return out


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Open the slices, in memory or backed."""
    work.mkdir(parents=True, exist_ok=True)
    backed, P = variant == "backed", data.counts.shape[-1]
    slices = {"int": [Slice(path, backed=backed) for path in data.slices]}
    written = [_write_floats(path, work / path.name) for path in data.slices]
    slices["floats"] = [Slice(path, backed=backed) for path in written]

    def read(kind: str) -> Iterator[Any]:
        for start in range(0, len(data.places), BATCH):
            some = range(start, min(start + BATCH, len(data.places)))
            crops = [
                slices[kind][data.places[i, 0]].crop(*data.places[i, 1:], P, data.genes[i])
                for i in some
            ]
            yield np.stack(crops).reshape(len(crops), P, P, -1)

    stored = {"integers": data.slices, "floats": written}
    return Peer(
        integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored, site_major=True
    )
