"""webdataset over ``.npy`` members, shuffled in a buffer, ``.batched(32)``."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from tests.benchmarks.peers.protocol import BATCH, Data, Peer

PACKAGES = ("webdataset", "numpy")
WHAT = "tars of `.npy`, uint16 or float32; `.shuffle(256)`, `.batched(32)`"


def _write(data: Data, pattern: Path, *, floats: bool) -> list[str]:
    pattern.mkdir(parents=True, exist_ok=True)
    with wds.ShardWriter(str(pattern / "%05d.tar"), maxcount=500, verbose=0) as sink:
        for i in range(len(data.counts)):
            value = data.values(i, i + 1)[0] if floats else data.counts[i]
            parts = {"counts.npy": value, "genes.npy": data.genes[i], "totals.npy": data.totals[i]}
            sink.write({"__key__": f"{i:06d}", **parts})
    return [str(path) for path in sorted(pattern.glob("*.tar"))]


def _decode(sample: dict[str, Any]) -> tuple[Any, ...]:
    # What webdataset's own decoder does with .npy, without its unpickling.
    names = ("counts.npy", "genes.npy", "totals.npy")
    return tuple(np.lib.format.read_array(io.BytesIO(sample[name])) for name in names)


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of shards and open them."""
    urls = {kind: _write(data, work / kind, floats=kind == "floats") for kind in ("int", "floats")}

    def read(kind: str) -> Iterator[Any]:
        dataset = wds.WebDataset(urls[kind], shardshuffle=100, empty_check=False, seed=0)
        for counts, _genes, _totals in dataset.shuffle(256).map(_decode).batched(BATCH):
            yield counts

    stored = {"integers": work / "int", "floats": work / "floats"}
    return Peer(integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored)
