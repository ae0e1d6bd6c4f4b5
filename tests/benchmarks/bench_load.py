"""Loading: patches a second of one core, from shards in the page cache to arrays.

The peer is webdataset over float32 ``.npy`` members of the very same patches. Ours are integers
and library sizes, with the SHA-256 of every patch checked. All run in this process, in turns.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import webdataset as wds

from stbuild.corpus.npy import read_npy
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_counts, decode_patch
from sttrain.order import Order
from sttrain.stream import PatchSource, PatchStream, StreamState

HEAD = [
    "| loader | what it yields | patches per CPU-second | times webdataset |",
    "|---|---|---|---|",
]


@dataclass(frozen=True)
class LoadResult:
    loader: str
    yields: str
    speed: float


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
                        "__key__": source.index.keys[number],
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


def stream(corpus: Corpus, batch: int = 64) -> Iterator[Any]:
    """Iterate one epoch of our loader, in its shuffled order."""
    source = PatchSource(corpus, "train")
    order = Order(n_samples=len(source), batch=batch)
    yield from PatchStream(source, order).batches(StreamState(), 1)


def measure_load(zstd: Path, lz4: Path, out: Path, repeats: int = 5) -> list[LoadResult]:
    """Read all patches `repeats` times with each loader, in turns, and take medians."""
    packed, fast = open_corpus(zstd), open_corpus(lz4)
    floats = write_float_shards(packed, out / "float")
    config = packed.document.config
    shape = (config.genes, config.window, config.window)
    n = len(packed.index("train"))
    loaders: dict[tuple[str, str], Callable[[], Iterator[Any]]] = {
        ("webdataset, float32 `.npy`", "float32"): lambda: plain(floats, decode_float),
        ("sttrain.stream, zstd", "uint16 batches, digests checked"): lambda: stream(packed),
        ("sttrain.stream, lz4", "uint16 batches, digests checked"): lambda: stream(fast),
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
    for _ in range(repeats):
        for name, start_reading in loaders.items():
            start = time.process_time()
            for _batch in start_reading():
                pass
            times[name].append(time.process_time() - start)
    return [LoadResult(*name, n / median(found)) for name, found in times.items()]


def load_rows(results: list[LoadResult]) -> list[str]:
    base = results[0].speed
    return [
        f"| {r.loader} | {r.yields} | {r.speed:,.0f} | **{r.speed / base:.1f}** |" for r in results
    ]
