"""Loading: patches a second of one core, from shards in the page cache to arrays.

The peer is webdataset over float32 ``.npy`` members of the very same patches, one by one, and put
together to batches as ours are. Ours are integers and library sizes, or log1p(CP10K), with the
SHA-256 of every patch checked; the floor is what decompression alone takes. All run in this
process, in turns, so that a ratio is of two neighbours in time.
"""

import argparse
import io
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import webdataset as wds
from numcodecs import blosc

from stbuild.corpus.npy import read_npy
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_counts, decode_patch
from sttrain.stream.batches import PatchSource, PatchStream, StreamState, cut_members
from sttrain.stream.normalised import normalise_counts
from tests.benchmarks.bench import Bench
from tests.benchmarks.timing import spread

HEAD = [
    "| loader | what it yields | patches per CPU-second | times webdataset | times it, batched |",
    "|---|---|---|---|---|",
]
PEER = "webdataset, float32 `.npy`"
BATCHED = "webdataset, float32 `.npy`, `.batched(64)`"
_BATCH = 64


@dataclass(frozen=True)
class LoadResult:
    """What one loader took in every round."""

    loader: str
    yields: str
    n_patches: int
    seconds: list[float]
    """CPU seconds of each round."""

    @property
    def speed(self) -> float:
        """Patches per CPU-second."""
        return self.n_patches / median(self.seconds)

    def times(self, peer: "LoadResult") -> list[float]:
        """Return how many times as fast as a peer it was in every round."""
        return [other / own for own, other in zip(self.seconds, peer.seconds, strict=True)]


def write_float_shards(corpus: Corpus, out: Path) -> list[str]:
    """Write the patches of a corpus as log1p(CP10K) float32 ``.npy``; return the shards."""
    out.mkdir(parents=True, exist_ok=True)
    source = PatchSource(corpus, "train")
    paths: list[str] = []
    for start in range(0, len(source), 1000):
        path = str(out / f"float-{len(paths):05d}.tar")
        with wds.TarWriter(path) as sink:
            for number in range(start, min(start + 1000, len(source))):
                counts, genes, totals = source.read([number])
                scale = 1e4 / np.maximum(totals[0], 1)
                value = np.log1p(counts[0] * scale).astype(np.float32)
                sink.write(
                    {
                        "__key__": source.key(number),
                        "counts.npy": value,
                        "genes.npy": genes[0],
                        "totals.npy": totals[0],
                        "json": {"slice": source.index.slices[number]},
                    }
                )
        paths.append(path)
    return paths


def shards_of(corpus: Corpus) -> list[str]:
    return [str(corpus.root / shard.path) for shard in corpus.document.shards_of("train")]


def plain(urls: list[str], decode: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    """Iterate a plain webdataset pipeline."""
    return iter(wds.WebDataset(urls, shardshuffle=False, empty_check=False).map(decode))


def decode_float(sample: dict[str, Any]) -> tuple[Any, ...]:
    """Do what webdataset's own decoder does with ``.npy``, without its unpickling."""
    return tuple(
        np.lib.format.read_array(io.BytesIO(sample[f"{name}.npy"]))
        for name in ("counts", "genes", "totals")
    )


def decode_integers(sample: dict[str, Any], shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Decode the arrays of our patch and nothing else."""
    where = sample["__key__"]
    return (
        decode_counts("counts.blosc", sample["counts.blosc"], shape, where),
        read_npy(sample["genes.npy"], where, "<i4", 1),
        read_npy(sample["totals.npy"], where, "<u4", 2),
    )


def stream(source: PatchSource) -> Iterator[Any]:
    """Iterate one epoch of our loader, in its shuffled order."""
    order = source.order(_BATCH, 0)
    yield from PatchStream(source, order).batches(StreamState(), 1)


def normalised(source: PatchSource) -> Iterator[Any]:
    """Iterate one epoch of our loader as log1p(CP10K)."""
    for batch in stream(source):
        yield normalise_counts(batch.counts, batch.genes, batch.totals, source.buffers)


def batched(urls: list[str]) -> Iterator[Any]:
    """Iterate the peer's batches, put together as webdataset does."""
    dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False).map(decode_float)
    return iter(dataset.batched(_BATCH))


def packed_counts(source: PatchSource) -> list[bytes]:
    """Return the packed counts of all patches."""
    index, found = source.index, []
    for i in range(len(source)):
        raw = bytearray(int(index.size[i]))
        source.shards.read_into(int(index.shard[i]), int(index.offset[i]), memoryview(raw))
        found.append(bytes(cut_members(bytes(raw), source.key(i).encode())[b"counts.blosc"]))
    return found


def decompress(frames: list[bytes], shape: tuple[int, int, int]) -> Iterator[Any]:
    """Decompress all counts into one batch and do nothing else: no loader can be faster."""
    blosc.use_threads = False
    batch = np.empty((_BATCH, *shape), np.uint16)
    for i, frame in enumerate(frames):
        blosc.decompress(frame, batch[i % _BATCH])
        yield None


def measure_load(zstd: Path, lz4: Path, out: Path, repeats: int = 5) -> list[LoadResult]:
    """Read all patches `repeats` times with each loader, in turns.

    Parameters
    ----------
    zstd, lz4
        The same corpus under either codec.
    out
        Folder for the peer's shards.
    repeats
        Rounds; each goes through all loaders once.
    """
    packed, fast = open_corpus(zstd), open_corpus(lz4)
    # Opened once: what that takes is measured by tests.benchmarks.large_index.
    one, two = PatchSource(packed, "train"), PatchSource(fast, "train")
    floats = write_float_shards(packed, out / "float")
    config = packed.document.config
    shape = (config.genes, config.window, config.window)
    n = len(one)
    frames = {"zstd": packed_counts(one), "lz4": packed_counts(two)}
    ours, floor = "uint16 batches, shuffled, digests checked", "uint16; the floor of ours"
    norm = "float32 log1p(CP10K) batches, shuffled, digests checked"
    loaders: dict[tuple[str, str], Callable[[], Iterator[Any]]] = {
        (PEER, "float32, one by one"): lambda: plain(floats, decode_float),
        (BATCHED, "float32 batches"): lambda: batched(floats),
        ("sttrain.stream.batches, zstd", ours): lambda: stream(one),
        ("sttrain.stream.batches, lz4", ours): lambda: stream(two),
        ("decompression alone, zstd", floor): lambda: decompress(frames["zstd"], shape),
        ("decompression alone, lz4", floor): lambda: decompress(frames["lz4"], shape),
        ("sttrain.stream.batches + sttrain.stream.normalised, zstd", norm): lambda: normalised(one),
        ("sttrain.stream.batches + sttrain.stream.normalised, lz4", norm): lambda: normalised(two),
        ("webdataset over our zstd shards, arrays only", "uint16"): lambda: plain(
            shards_of(packed), lambda s: decode_integers(s, shape)
        ),
        ("webdataset over our lz4 shards, arrays only", "uint16"): lambda: plain(
            shards_of(fast), lambda s: decode_integers(s, shape)
        ),
        ("webdataset over our lz4 shards, `decode_patch`", "uint16, all checked"): lambda: plain(
            shards_of(fast), lambda s: decode_patch(s, s["__key__"])
        ),
    }
    times: dict[tuple[str, str], list[float]] = {name: [] for name in loaders}
    for start_reading in loaders.values():  # imports, page cache, first touch of memory
        deque(start_reading(), maxlen=0)
    for _ in range(repeats):
        for name, start_reading in loaders.items():
            start = time.process_time()
            deque(start_reading(), maxlen=0)
            times[name].append(time.process_time() - start)
    return [LoadResult(*name, n, found) for name, found in times.items()]


def load_rows(results: list[LoadResult]) -> list[str]:
    """Return the rows of the table."""
    peers = [next(r for r in results if r.loader == name) for name in (PEER, BATCHED)]
    rows = []
    for r in results:
        shown = [spread(r.times(peer), 1) for peer in peers]
        rows.append(f"| {r.loader} | {r.yields} | {r.speed:,.0f} | {' | '.join(shown)} |")
    return rows


def lines(bench: Bench) -> list[str]:
    """Measure both codecs and return the table."""
    zstd, lz4 = (bench.training(codec).root for codec in ("zstd", "lz4"))
    found = measure_load(zstd, lz4, bench.work, bench.repeats)
    what = f"{found[0].n_patches:,} patches of 16 x 16 sites x 512 genes"
    return [f"{what}.", "", *HEAD, *load_rows(found)]


def main() -> None:
    """Measure two corpora and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zstd", type=Path)
    parser.add_argument("lz4", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure_load(options.zstd, options.lz4, Path(folder), options.repeats)
    sys.stdout.write("\n".join([*HEAD, *load_rows(found)]) + "\n")


if __name__ == "__main__":
    main()
