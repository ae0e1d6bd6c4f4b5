"""Building and loading over workers: wall time, and the CPU time that parting the work costs.

Wall time says something on a machine that is otherwise idle alone; the load average stands above
the table. ``stbuild -j`` starts processes, ``sttrain fit --workers`` threads.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import run, tool
from tests.benchmarks.timing import times_as_fast

HEAD = [
    "| work | workers | wall s | times as fast as 1 | CPU s | CPU, times that of 1 |",
    "|---|---:|---:|---:|---:|---:|",
]
WORKERS = (1, 2)
_BATCH = 64
_SECTIONS = 24
"""Enough that the start of workers, some seconds, is not all that is seen."""
Turn = tuple[float, float]
"""Wall and CPU seconds."""


def _build(command: str, source: list[Path], out: Path, options: list[str], workers: int) -> Turn:
    shutil.rmtree(out, ignore_errors=True)
    cost = run([tool("stbuild"), command, *source, "-o", out, "-j", str(workers), "-q", *options])
    return cost.wall, cost.cpu


def read_epoch(source: PatchSource, workers: int) -> Turn:
    """Read an epoch with so many threads that read ahead, beside the one that takes batches.

    A single worker is no thread at all: the taker reads for itself.
    """
    stream = PatchStream(source, source.order(_BATCH, 0), workers=workers if workers > 1 else 0)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in stream.batches(StreamState(), 1):
        pass
    return time.perf_counter() - wall, time.process_time() - cpu


def rows(what: str, turn: Callable[[int], Turn], repeats: int) -> list[str]:
    """Measure one kind of work with every number of workers, in turns, and return its rows."""
    found: dict[int, list[Turn]] = {workers: [] for workers in WORKERS}
    for _ in range(repeats):
        for workers in WORKERS:
            found[workers].append(turn(workers))
    lines = []
    for workers in WORKERS:
        walls, cpus = zip(*found[workers], strict=True)
        base_walls, base_cpus = zip(*found[WORKERS[0]], strict=True)
        faster, dearer = times_as_fast(walls, base_walls), times_as_fast(base_cpus, cpus)
        name = what if workers == WORKERS[0] else ""
        shown = f"{median(walls):.1f} | {faster} | {median(cpus):.1f} | {dearer}"
        lines.append(f"| {name} | {workers} | {shown} |")
    return lines


def lines(bench: Bench) -> list[str]:
    """Measure building and loading and return the table."""
    paths, grids = bench.slices(_SECTIONS)[1], bench.grids(_SECTIONS)
    n = 500
    options = ["--n-per-slice", str(n)]
    out, source = bench.work / "workers", PatchSource(bench.training("zstd"), "train")
    read_epoch(source, 2)
    found = [
        *rows(
            f"`stbuild compact`, {len(paths)} sections",
            lambda w: _build("compact", paths, out, [], w),
            bench.repeats,
        ),
        *rows(
            f"`stbuild shard`, {n * len(paths):,} patches of them",
            lambda w: _build("shard", [grids], out, options, w),
            bench.repeats,
        ),
        *rows(
            f"sttrain.stream, {len(source):,} patches, zstd",
            lambda w: read_epoch(source, w),
            bench.repeats,
        ),
    ]
    shutil.rmtree(out, ignore_errors=True)
    return [f"{os.cpu_count()} cores.", "", *HEAD, *found]
