"""Ours: :mod:`sttrain.stream` over shards of any codec, shuffled, every digest checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stbuild.corpus.reader import open_corpus
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from sttrain.stream.normalised import normalise_counts
from tests.benchmarks.peers.protocol import BATCH, Data, Peer

PACKAGES = ("numpy", "numcodecs")
WHAT = "shards; shuffled, SHA-256 of every patch checked; floats are normalised after decoding"


def open_peer(data: Data, work: Path, variant: str) -> Peer:
    """Open the corpus of a codec that lies beside the data."""
    source = PatchSource(open_corpus(data.root / f"train-{variant}"), "train", cache=work)

    def integers() -> Iterator[Any]:
        for batch in PatchStream(source, source.order(BATCH, 0)).batches(StreamState(), 1):
            yield batch.counts

    def floats() -> Iterator[Any]:
        for batch in PatchStream(source, source.order(BATCH, 0)).batches(StreamState(), 1):
            yield normalise_counts(batch.counts, batch.genes, batch.totals, source.buffers)

    shards = [source.corpus.root / entry.path for entry in source.entries]
    return Peer(integers=integers, floats=floats, stored={"integers": shards, "floats": shards})
