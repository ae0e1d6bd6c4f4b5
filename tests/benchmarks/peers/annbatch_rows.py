"""annbatch: a ``DatasetCollection`` whose rows are patches, read by its ``Loader`` with zarrs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from annbatch import DatasetCollection, Loader

from tests.benchmarks.peers.protocol import BATCH, Data, Peer
from tests.benchmarks.peers.rows import write_rows

PACKAGES = ("annbatch", "zarrs", "zarr")
_CHUNK = 4
"""Rows of a chunk on disk and of a read: a row is as large as a batch of single cells."""
WHAT = "rows of a `DatasetCollection`; `Loader(chunk_size=4, preload_nchunks=64)`, zarrs"


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of rows, sparse or dense, as collections and open them."""
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1})
    shape, collections = data.counts.shape[1:], {}
    for kind in ("int", "floats"):
        path = work / f"{kind}.h5ad"
        write_rows(data, path, floats=kind == "floats", dense=variant == "dense")
        collections[kind] = DatasetCollection(str(work / f"{kind}.zarr"))
        collections[kind].add_adatas([path], n_obs_per_chunk=_CHUNK, rng=np.random.default_rng(0))
        path.unlink()

    def read(kind: str) -> Iterator[Any]:
        loader = Loader(
            batch_size=BATCH,
            chunk_size=_CHUNK,
            preload_nchunks=64,
            shuffle=True,
            rng=np.random.default_rng(0),
            to=None,
        ).use_collection(collections[kind])
        for batch in loader:
            found = batch["X"]
            found = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
            yield found.reshape(-1, *shape)

    stored = {"integers": work / "int.zarr", "floats": work / "floats.zarr"}
    return Peer(integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored)
