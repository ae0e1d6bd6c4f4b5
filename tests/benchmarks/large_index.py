"""Corpora of up to ten million patches that exist in their index alone, and what opening one takes.

Run ``python -m tests.benchmarks.large_index -o benchmarks/index.md``. Shards are files without
content (sparse), so that everything but their bytes is as in a corpus of that size.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.documents import FileEntry, ShardEntry
from stbuild.corpus.durable import write_durable
from stbuild.corpus.reader import open_corpus
from sttrain.stream.order import BlockOrder, Order
from sttrain.stream.source import PatchSource
from tests.corpora import write_corpus

SIZES = (1_000, 100_000, 10_000_000)
_BYTES = 32_256
"""Bytes of a patch, as measured on her2st."""
_ROWS = 2**17


def _index_parts(n: int, samples_per_shard: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(n)
    for start in range(0, n, _ROWS):
        number = np.arange(start, min(start + _ROWS, n))
        slices = number % 5000
        columns = {
            "key": [f"slice-{s:04d}_w{i:07d}" for s, i in zip(slices, number, strict=True)],
            "shard": (number // samples_per_shard).astype(np.int32),
            "offset": number % samples_per_shard * _BYTES,
            "size": np.full(number.size, _BYTES),
        }
        columns |= dict.fromkeys(("row", "col", "draw"), np.zeros(number.size, np.int32))
        columns["observed"] = np.full(number.size, 200, np.int32)
        for name in ("sha256", "content"):
            raw = rng.bytes(32 * number.size)
            columns[name] = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), number.size, [None, pa.py_buffer(raw)]
            )
        columns["slice"] = [f"slice-{s:04d}" for s in slices]
        columns["donor"] = [f"donor-{s % 900}" for s in slices]
        yield pa.table(columns)


def write_large_corpus(root: Path, n: int, samples_per_shard: int = 1024) -> None:
    """Write a corpus of `n` patches whose shards hold nothing."""
    corpus = write_corpus(root, n_patches=1, n_slices=1)
    path = root / names.index_path("train", "patch")
    writer = None
    for part in _index_parts(n, samples_per_shard):
        writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
        writer.write_table(part)
    if writer is not None:
        writer.close()
    shards = []
    for number in range(-(-n // samples_per_shard)):
        held = min(samples_per_shard, n - number * samples_per_shard)
        entry = ShardEntry(
            path=names.shard_path("toy", "train", "patch", number), split="train", kind="patch",
            n_samples=held, bytes=held * _BYTES + 1024, sha256=sha256(b"").hexdigest(),
            content=sha256(b"").hexdigest(),
        )  # fmt: skip
        with (root / entry.path).open("wb") as file:
            file.truncate(entry.bytes)
        shards.append(entry)
    document = corpus.document
    kept = [shard for shard in document.shards if shard.kind == "slice"]
    index = FileEntry(
        path=names.index_path("train", "patch"), bytes=path.stat().st_size, sha256=sha256_file(path)
    )
    files = tuple(index if f.path == index.path else f for f in document.files)
    changed = document.model_copy(update={"shards": (*shards, *kept), "files": files})
    write_durable(root / names.CORPUS_JSON, changed.to_bytes())


def resident() -> dict[str, int]:
    """Return the resident memory of this process in bytes: its own, and that of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(value) * 1024 for name, value in found.items()}


def measure_start(root: Path, cache: Path) -> tuple[float, int, int]:
    """Open a corpus as a run does, and look up the samples of 200 steps under both orders.

    Returns
    -------
    tuple
        Seconds; bytes by which the process's own memory has grown, and that of mapped files.
    """
    before, start = resident(), time.perf_counter()
    corpus = open_corpus(root)
    source = PatchSource(corpus, "train", cache=cache)
    seconds = time.perf_counter() - start
    shards = tuple(entry.n_samples for entry in source.entries)
    plain = Order(n_samples=len(source), batch=64)
    for order in (plain, BlockOrder(n_samples=len(source), batch=64, shards=shards, group=8)):
        for step in range(min(200, order.steps)):
            numbers = order.global_batch(0, step)
            source.places(numbers)
            _ = [source.key(number) for number in numbers.tolist()]
    after = resident()
    own, mapped = (after[name] - before[name] for name in ("RssAnon", "RssFile"))
    return seconds, own, mapped


def main() -> None:
    """Measure every size, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--measure", type=Path, nargs=2)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(" ".join(map(str, measure_start(*options.measure))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for n in options.sizes:
            root, cache = Path(name, str(n)), Path(name, "cache")
            write_large_corpus(root, n)
            command = [sys.executable, "-m", "tests.benchmarks.large_index", "--measure"]
            first, *again = [
                [float(word) for word in subprocess.run(
                    [*command, str(root), str(cache)], stdout=subprocess.PIPE, check=True
                ).stdout.split()]
                for _ in range(4)
            ]  # fmt: skip
            seconds, own, mapped = (sorted(column)[1] for column in zip(*again, strict=True))
            rows.append(
                f"| {n:,} | {(root / 'index/train.parquet').stat().st_size / 1e6:,.1f} MB "
                f"| {first[0]:.2f} s | {seconds:.2f} s | {own / 1e6:,.0f} MB "
                f"| {mapped / 1e6:,.0f} MB |"
            )
            sys.stdout.write(rows[-1] + "\n")
            sys.stdout.flush()
    if options.output is not None:
        options.output.write_text(HEAD + "\n".join(rows) + "\n", "utf-8")


HEAD = """# Opening a corpus, by its size

Corpora that exist in their index alone (shards of 1,024 patches, sparse files). A run's process
opens one, checks that every shard is there with its size, and looks up shard, place and key of the
patches of 200 steps of 64 under each order. Written by `python -m tests.benchmarks.large_index`;
medians of 3 starts, each in a new process. Own memory is `RssAnon`; mapped files are `RssFile`,
which the system takes back when it needs it. From 100,000 patches on the index is mapped from a
cache, which the first start makes.

| patches | Parquet index | first start | later starts | own memory grown | mapped files |
|---|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()
