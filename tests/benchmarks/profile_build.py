"""Where the builder's CPU time goes, by phase, beside what the bytes alone would take.

``python -m tests.benchmarks.profile_build SLICES...`` runs both commands' work in one process with
a clock around a few functions; a phase does not count the phases inside it. Floors are measured
in the same run: the libraries alone on the same bytes.
"""

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any, Final

from numcodecs import blosc

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import CompactTask, compact_slice
from stbuild.manifests.manifest import read_inputs
from stbuild.reading.opening import ReadTask
from stbuild.tasks.pipeline import run_loop
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_build import synthetic
from tests.benchmarks.measure import memcpy_speed, run

START: Final = "start: interpreters and imports of three processes"
PHASES: Final = {
    "stbuild.sources.matrices:_fetch": "read: inflate the counts (HDF5)",
    "stbuild.reading.opening:read_source": "read: the rest of the file, checks",
    "stbuild.reading.opening:take_in": "read: genes and spots kept",
    "stbuild.grid.compact:build_grid": "grid: place the spots",
    "stbuild.grid.placing:_counts_digest": "grid: SHA-256 of the counts",
    "stbuild.grid.arrays:_dense": "grid: sparse to dense",
    "stbuild.grid.chunks:Layout.encode": "grid: zstd",
    "stbuild.grid.compact:write_grid": "grid: files, SHA-256, fsync",
    "stbuild.grid.chunks:Layout.decode": "cut: decode the grid",
    "stbuild.patches.cropping:_read_dense": "cut: turn sites to genes",
    "stbuild.patches.moments:WindowMoments._add_row": "cut: sums of q over strips",
    "stbuild.patches.moments:_sum_columns": "cut: sums over windows",
    "stbuild.patches.cropping:gene_weights": "cut: variances",
    "stbuild.patches.cropping:keyed_stream": "cut: random numbers",
    "stbuild.patches.cropping:draw_uniforms": "cut: random numbers",
    "stbuild.patches.cropping:choose_genes": "cut: choose genes",
    "stbuild.patches.cropping:SliceView.crop_counts": "cut: crop",
    "stbuild.corpus.samples:encode_counts": "cut: zstd",
    "stbuild.corpus.samples:Patch.content": "cut: SHA-256 of the content",
    "stbuild.build.building:cut_part": "cut: members, tar, SHA-256, scratch file",
    "stbuild.build.building:write_shard": "shards: read, check, write, read back, fsync",
    "stbuild.build.building:publish_corpus": "tables, index, documents",
}


class Clock:
    """CPU seconds by phase, without those of the phases inside."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = process_time()
        self._inside.append(0.0)
        yield
        spent = process_time() - start
        self.seconds[name] += spent - self._inside.pop()
        self._inside[-1] += spent

    def watch(self, place: str, name: str) -> None:
        """Put the clock around ``module:function`` or ``module:Class.method``."""
        module, _, path = place.partition(":")
        *owners, last = path.split(".")
        owner: Any = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        original: Callable[..., Any] = getattr(owner, last)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, last, timed)


def start_seconds() -> float:
    """Return what the three processes take to start and import."""
    codes = (
        "import stbuild.cli, stbuild.grid.compact, stbuild.reading.jail, stbuild.reading.sections; "
        "import stbuild.tasks.pipeline",
        "import stbuild.reading.jail_child, stbuild.sources.h5ad",
        "import stbuild.cli, stbuild.build.building, stbuild.build.extension, pyarrow.parquet",
    )
    return sum(run([sys.executable, "-c", code]).cpu for code in codes)


def build(paths: list[Path], work: Path, n_per_slice: int, clock: Clock) -> None:
    manifest = read_inputs(tuple(str(path) for path in paths))
    with clock.phase("the rest"):
        for record in manifest.records:
            read = ReadTask(record=record, config=GridConfig())
            compact_slice(CompactTask(read=read, path=work / "grids" / f"{record.slug}.zarr"))
    # The catalogue, out of the clock; grids that stand are kept.
    stbuild = [sys.executable, "-m", "stbuild", "compact", *map(str, paths), "-q"]
    subprocess.run([*stbuild, "-o", str(work / "grids")], check=True, stdout=subprocess.DEVNULL)
    with clock.phase("the rest"):
        inputs = gather_inputs(work / "grids", ShardConfig(n_per_slice=n_per_slice), None)
        build_corpus(inputs, work / "corpus", run_loop)


def floors(paths: list[Path], work: Path) -> dict[str, float]:
    """Return the CPU seconds that libraries alone take for the bytes of a corpus."""
    corpus = open_corpus(work / "corpus")
    shards = [work / "corpus" / shard.path for shard in corpus.document.shards]
    size, n = sum(path.stat().st_size for path in shards), len(corpus.index("train"))
    from stbuild.corpus.samples import decode_patch
    from stbuild.corpus.tar import unpack_sample

    raw, index = shards[0].read_bytes(), corpus.index("train")
    some = []
    for offset, length in zip(index.offset[:200].tolist(), index.size[:200].tolist(), strict=True):
        some.append(decode_patch(unpack_sample(raw[offset : offset + length], "")[1], "").counts)
    found = {}
    blosc.use_threads = False
    start = process_time()
    for counts in some:
        blosc.compress(counts, b"zstd", 1, blosc.BITSHUFFLE, 2**18)
    found["zstd of the patches"] = (process_time() - start) / len(some) * n
    start = process_time()
    for counts in some:
        hashlib.sha256(counts.data).digest()
    found["SHA-256 of their counts"] = (process_time() - start) / len(some) * n
    start = process_time()
    for _ in range(5):  # sample, part, check, shard, read-back
        hashlib.sha256(raw).digest()
    found["SHA-256 of their files, five times"] = (process_time() - start) / len(raw) * size
    moved = n * some[0].nbytes * 2 + 4 * size
    found["moving their bytes once in, once out"] = moved / memcpy_speed() / 1e9
    found["inflating the counts of the slices"] = inflate_seconds(paths)
    return found


def inflate_seconds(paths: list[Path]) -> float:
    """Return what zlib alone takes for the sparse counts, deflated again in one piece each."""
    import h5py

    spent = 0.0
    for path in paths:
        with h5py.File(path) as file:
            pieces = [
                gzip.compress(file[f"X/{name}"][:].tobytes(), 4) for name in ("data", "indices")
            ]
        start = process_time()
        for piece in pieces:
            gzip.decompress(piece)
        spent += process_time() - start
    return spent


def profile(paths: list[Path], n_per_slice: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return CPU seconds by phase, and the floor of them; clocks stay on until the process ends."""
    clock = Clock()
    clock.seconds[START] = start_seconds()
    for place, name in PHASES.items():
        clock.watch(place, name)
    with tempfile.TemporaryDirectory(prefix="stcorpus-profile-") as folder:
        build(paths, Path(folder), n_per_slice, clock)
        return dict(clock.seconds), floors(paths, Path(folder))


def profile_rows(title: str, columns: dict[str, dict[str, float]]) -> list[str]:
    """Return a table: seconds and share of each row, for each column."""
    head = "".join(f" {what}, CPU s | share |" for what in columns)
    rows = [f"| {title} |{head}", "|---|" + "---|---|" * len(columns)]
    totals = [sum(column.values()) for column in columns.values()]
    order = (START, *PHASES.values(), "the rest")
    names = dict.fromkeys(name for column in columns.values() for name in column)
    for name in sorted(names, key=lambda n: order.index(n) if n in order else 0):
        cells = [
            f"{column.get(name, 0.0):.2f} | {column.get(name, 0.0) / total:.0%}"
            for column, total in zip(columns.values(), totals, strict=True)
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [*rows, f"| together | {' | '.join(f'{total:.2f} | ' for total in totals)}|", ""]


def lines(bench: Bench) -> list[str]:
    """Profile real sections and a synthetic slice, each in a process of its own."""
    files, path = bench.slices()[1], synthetic(bench.work)[1]
    phases, least = {}, {}
    for what, paths in ((f"{len(files)} sections", files), ("synthetic slice", [path])):
        command = [sys.executable, "-m", "tests.benchmarks.profile_build", "--json", *paths]
        told = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True).stdout
        phases[what], least[what] = json.loads(told)
    shares = [
        f"{sum(least[what].values()) / sum(phases[what].values()):.0%} of {what}" for what in least
    ]
    floor = f"The floor is {' and '.join(shares)}."
    return [*profile_rows("phase", phases), *profile_rows("floor", least), floor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--n-per-slice", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print both as one JSON list")
    options = parser.parse_args()
    phases, least = profile(options.paths, options.n_per_slice)
    if options.json:
        print(json.dumps([phases, least]))  # noqa: T201 - the result
        return
    what = f"{len(options.paths)} slices"
    rows = [*profile_rows("phase", {what: phases}), *profile_rows("floor", {what: least})]
    print("\n".join(rows))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
