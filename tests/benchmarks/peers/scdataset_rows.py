"""scDataset over a backed AnnData whose rows are patches; blocks of 4 rows, shuffled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scdataset import BlockShuffling, scDataset
from torch.utils.data import DataLoader

from tests.benchmarks.peers.protocol import BATCH, Data, Peer
from tests.benchmarks.peers.rows import write_rows

PACKAGES = ("scdataset", "anndata", "h5py")
WHAT = "rows of a backed h5ad; `BlockShuffling(4)`, `fetch_factor=16`, `DataLoader`"


def _fetch(adata: Any, indices: Any) -> Any:
    found = adata.X[np.sort(indices)]  # HDF5 reads ascending rows alone
    return found.toarray() if hasattr(found, "toarray") else found


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of rows, sparse or dense, and open them."""
    shape, loaders = data.counts.shape[1:], {}
    for kind in ("int", "floats"):
        path = work / f"{kind}.h5ad"
        write_rows(data, path, floats=kind == "floats", dense=variant == "dense")
        dataset = scDataset(
            anndata.read_h5ad(path, backed="r"),
            BlockShuffling(block_size=4),
            batch_size=BATCH,
            fetch_factor=16,
            fetch_callback=_fetch,
        )
        loaders[kind] = DataLoader(dataset, batch_size=None)

    def read(kind: str) -> Iterator[Any]:
        for batch in loaders[kind]:
            yield batch.reshape(-1, *shape)

    stored = {"integers": work / "int.h5ad", "floats": work / "floats.h5ad"}
    return Peer(integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored)
