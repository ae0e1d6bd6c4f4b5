"""litdata: ``optimize`` to chunks, ``StreamingDataset`` in a ``StreamingDataLoader``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import litdata

from tests.benchmarks.peers.protocol import BATCH, Data, Peer, read_data

PACKAGES = ("litdata", "torch")
WHAT = "chunks of 64 MB, uncompressed; `StreamingDataset(shuffle=True)`, `StreamingDataLoader`"


def sample(number: int, root: str, *, floats: bool) -> dict[str, Any]:
    """Return one patch; litdata's own process calls it."""
    data = read_data(Path(root))
    value = data.values(number, number + 1)[0] if floats else data.counts[number]
    return {
        "counts": value.copy(),
        "genes": data.genes[number].copy(),
        "totals": data.totals[number].copy(),
    }


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of chunks and open them."""
    loaders = {}
    for kind in ("int", "floats"):
        out = work / kind
        litdata.optimize(
            fn=partial(sample, root=str(data.root), floats=kind == "floats"),
            inputs=list(range(len(data.counts))),
            output_dir=str(out),
            chunk_bytes="64MB",
            num_workers=1,
        )
        dataset = litdata.StreamingDataset(str(out), shuffle=True)
        loaders[kind] = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)

    def read(kind: str) -> Iterator[Any]:
        for batch in loaders[kind]:
            yield batch["counts"]

    stored = {"integers": work / "int", "floats": work / "floats"}
    return Peer(integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored)
