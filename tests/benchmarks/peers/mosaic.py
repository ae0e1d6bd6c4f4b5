"""mosaicml-streaming: MDS shards, ``StreamingDataset`` in a ``DataLoader`` without workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from tests.benchmarks.peers.protocol import BATCH, Data, Peer

PACKAGES = ("mosaicml-streaming", "torch")
WHAT = "MDS shards, uncompressed; `StreamingDataset(shuffle=True)` in a `DataLoader`"


def _write(data: Data, out: Path, *, floats: bool) -> Path:
    kind = "float32" if floats else "uint16"
    sizes = [",".join(map(str, array.shape[1:])) for array in (data.counts, data.totals)]
    columns = {
        "counts": f"ndarray:{kind}:{sizes[0]}",
        "genes": f"ndarray:int32:{data.genes.shape[1]}",
        "totals": f"ndarray:uint32:{sizes[1]}",
    }
    with MDSWriter(out=str(out), columns=columns) as sink:
        for i in range(len(data.counts)):
            value = data.values(i, i + 1)[0] if floats else data.counts[i]
            sink.write({"counts": value, "genes": data.genes[i], "totals": data.totals[i]})
    return out


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Write both kinds of shards and open them."""
    clean_stale_shared_memory()
    loaders = {}
    for kind in ("int", "floats"):
        local = str(_write(data, work / kind, floats=kind == "floats"))
        dataset = StreamingDataset(local=local, shuffle=True, batch_size=BATCH)
        loaders[kind] = DataLoader(dataset, batch_size=BATCH)

    def read(kind: str) -> Iterator[Any]:
        for batch in loaders[kind]:
            yield batch["counts"]

    stored = {"integers": work / "int", "floats": work / "floats"}
    return Peer(integers=lambda: read("int"), floats=lambda: read("floats"), stored=stored)
