"""What a patch costs in corpora of 10^3 to 10^6 patches: to build, to hold, and to read shuffled.

Real patches (16 x 16 sites x 512 genes) up to 10^5; small ones (4 x 4 x 16) up to 10^6, because a
million real ones take half an hour and 32 GB. Both are drawn from the same few sections again and
again. Building is one process; grids are made before and not counted.
``python -m tests.benchmarks size``; ``... bench_size CORPUS N`` reads alone, as a child does.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.reader import open_corpus
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from tests.benchmarks.bench import SECTIONS, Bench
from tests.benchmarks.measure import Cost, middle, run, tool

HEAD = [
    "| patches | rounds | build, CPU ms a patch | each further patch | build, peak MB | "
    "bytes a patch | open, s | read shuffled, CPU ms a patch |",
    "|---:|---:|---:|---:|---:|---:|---:|---:|",
]
SHAPES = ((16, 512, 10**5), (4, 16, 10**6))
"""Sites of a side, genes, and most patches."""
READ = 10_000
"""Patches that are read of each corpus at most."""
_BATCH = 64
_ONCE = 10**5
"""Corpora of so many patches are built once."""


@dataclass(frozen=True)
class SizeResult:
    """One size of corpus."""

    n: int
    rounds: int
    build: Cost
    bytes_each: float
    opened: float
    """Wall seconds until a run that has opened it before has it open."""
    read: float
    """CPU seconds a patch."""

    def row(self, smaller: "SizeResult | None") -> str:
        """Return the line of the table; a further patch is one beyond the smaller corpus."""
        further = "-"
        if smaller is not None:
            seconds = (self.build.cpu - smaller.build.cpu) / (self.n - smaller.n)
            further = f"{1e3 * seconds:.2f}"
        return (
            f"| {self.n:,} | {self.rounds} | {1e3 * self.build.cpu / self.n:.2f} | {further} | "
            f"{self.build.peak_mb:,.0f} | {self.bytes_each:,.0f} | {self.opened:.2f} | "
            f"{1e3 * self.read:.3f} |"
        )


def measure_reading(root: Path, most: int, cache: Path) -> tuple[float, float]:
    """Return the seconds of opening a corpus, and CPU seconds a patch of reading in random order.

    Parameters
    ----------
    root
        The corpus.
    most
        Patches to read at most.
    cache
        Where the index of a large corpus is unpacked.
    """
    start = time.perf_counter()
    source = PatchSource(open_corpus(root), "train", cache=cache)
    opened = time.perf_counter() - start
    stream = PatchStream(source, source.order(_BATCH, 0))
    steps = max(min(most, len(source)) // _BATCH, 1)
    stream.read(StreamState())  # what the first batch sets up
    start = time.process_time()
    n = sum(len(stream.read(StreamState(step=step)).keys) for step in range(steps))
    return opened, (time.process_time() - start) / n


def _read_apart(root: Path, cache: Path) -> tuple[float, float]:
    """Read in processes of their own: the first one makes the cache, the second is kept."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_size", root, str(READ), cache]
    for _ in range(2):
        found = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True).stdout
    opened, read = json.loads(found)
    return opened, read


def measure_size(
    grids: Path, work: Path, n: int, shape: tuple[int, int], rounds: int
) -> SizeResult:
    """Build a corpus of about `n` patches `rounds` times and read of it.

    Parameters
    ----------
    grids
        Folder of grids; the patches are spread over them.
    work
        Scratch folder.
    n
        Patches wanted.
    shape
        Sites of a side, and genes.
    rounds
        How often.
    """
    out, slices = work / "sized", len(list(grids.glob("*.zarr")))
    each = str(-(-n // slices))
    options = ["--n-per-slice", each, "--window", str(shape[0]), "--genes", str(shape[1]), "-q"]
    costs = []
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        costs.append(run([tool("stbuild"), "shard", grids, "-o", out, *options]))
    shards = open_corpus(out).document.shards
    kept = sum(shard.n_samples for shard in shards)
    size = sum(shard.bytes for shard in shards) / kept
    opened, read = _read_apart(out, work / "cache")
    shutil.rmtree(out)
    return SizeResult(kept, rounds, middle(costs), size, opened, read)


def lines(bench: Bench) -> list[str]:
    """Measure all sizes of both kinds of patches and return the tables."""
    grids, found = bench.grids(SECTIONS), []
    for side, genes, largest in SHAPES:
        found += ["", f"Patches of {side} x {side} sites x {genes} genes:", "", *HEAD]
        before: SizeResult | None = None
        for n in (10**power for power in range(3, 7) if 10**power <= min(largest, bench.most)):
            print(f"{n:,} patches of {side} x {side} x {genes}", file=sys.stderr, flush=True)  # noqa: T201
            rounds = 1 if n >= _ONCE else bench.repeats
            result = measure_size(grids, bench.work, n, (side, genes), rounds)
            found.append(result.row(before))
            print(found[-1], file=sys.stderr, flush=True)  # noqa: T201 - it may be hours to the end
            before = result
    return found[1:]


def main() -> None:
    """Read one corpus and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("most", type=int)
    parser.add_argument("cache", type=Path)
    options = parser.parse_args()
    print(json.dumps(measure_reading(options.corpus, options.most, options.cache)))  # noqa: T201


if __name__ == "__main__":
    main()
