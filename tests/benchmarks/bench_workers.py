"""Building and loading over workers: wall time, and the CPU time that parting the work costs.

Wall time says something on a machine that is otherwise idle alone; the load average stands above
the table. ``stbuild -j`` starts processes, ``sttrain fit --workers`` threads. What the machine
itself allows is measured too: two builds of one worker each, apart and at the same time.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_build import synthetic
from tests.benchmarks.measure import run, tool
from tests.benchmarks.timing import times_as_fast

HEAD = [
    "| work | workers | wall s | times as fast as 1 | CPU s | CPU, times that of 1 |",
    "|---|---:|---:|---:|---:|---:|",
]
_BATCH = 64
_SECTIONS = 24
"""Enough that the start of workers, some seconds, is not all that is seen."""
_VISIUM = 8
"""Slices of Visium's size."""
_EACH = (500, 2000)
"""Patches of a section: the start weighs a quarter as much under the second."""
Turn = tuple[float, float]
"""Wall and CPU seconds of the work."""


def _build(command: str, source: list[Path], out: Path, options: list[str], workers: int) -> Turn:
    shutil.rmtree(out, ignore_errors=True)
    cost = run([tool("stbuild"), command, *source, "-o", out, "-j", str(workers), "-q", *options])
    return cost.wall, cost.cpu


def half_of_two(turn: Callable[[Path], Turn], out: Path) -> Turn:
    """Do the work twice at once, in processes that know nothing of each other; return a half."""
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        turns = list(pool.map(turn, (out / "first", out / "second")))
    return (time.perf_counter() - start) / 2, sum(cpu for _, cpu in turns) / 2


def read_epoch(source: PatchSource, workers: int) -> Turn:
    """Read an epoch with so many threads that read ahead, beside the one that takes batches.

    A single worker is no thread at all: the taker reads for itself.
    """
    stream = PatchStream(source, source.order(_BATCH, 0), workers=workers if workers > 1 else 0)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in stream.batches(StreamState(), 1):
        pass
    return time.perf_counter() - wall, time.process_time() - cpu


def rows(what: str, kinds: Mapping[str, Callable[[], Turn]], repeats: int) -> list[str]:
    """Measure one work done in several ways, in turns; the rows compare them with the first."""
    found: dict[str, list[Turn]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, turn in kinds.items():
            found[kind].append(turn())
    base_walls, base_cpus = zip(*next(iter(found.values())), strict=True)
    lines: list[str] = []
    for kind, turns in found.items():
        walls, cpus = zip(*turns, strict=True)
        faster, dearer = times_as_fast(walls, base_walls), times_as_fast(base_cpus, cpus)
        shown = f"{median(walls):.1f} | {faster} | {median(cpus):.1f} | {dearer}"
        lines.append(f"| {'' if lines else what} | {kind} | {shown} |")
    return lines


def lines(bench: Bench) -> list[str]:
    """Measure building and loading and return the table."""
    paths, grids = bench.slices(_SECTIONS)[1], bench.grids(_SECTIONS)
    large = [synthetic(bench.work, seed)[1] for seed in range(_VISIUM)]
    out, source = bench.work / "workers", PatchSource(bench.training("zstd"), "train")
    read_epoch(source, 2)
    kinds: dict[str, dict[str, Callable[[], Turn]]] = {}
    for what, files in (("sections", paths), ("slices of Visium's size", large)):
        kinds[f"`stbuild compact`, {len(files)} {what}"] = {
            w: partial(_build, "compact", files, out / "grids", [], int(w)) for w in "12"
        }
    for n in _EACH:
        options = ["--n-per-slice", str(n)]
        ours = {w: partial(_build, "shard", [grids], out / "one", options, int(w)) for w in "12"}
        alone = partial(_build, "shard", [grids], options=options, workers=1)
        kinds[f"`stbuild shard`, {n * len(paths):,} patches of the sections"] = {
            **ours, "two apart": partial(half_of_two, alone, out),
        }  # fmt: skip
    kinds[f"sttrain.stream, {len(source):,} patches, zstd"] = {
        w: partial(read_epoch, source, int(w)) for w in "12"
    }
    found = [row for what, ways in kinds.items() for row in rows(what, ways, bench.repeats)]
    shutil.rmtree(out, ignore_errors=True)
    return [f"{os.cpu_count()} cores.", "", *HEAD, *found]
