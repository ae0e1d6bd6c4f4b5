"""Building: from .h5ad files to finished shards, ours beside the naive Algorithm 1.

Both are whole processes: interpreter, imports, reading, writing. Runs are interleaved, so that
a change of the machine's mood meets both; medians are shown.
``python -m tests.benchmarks.bench_build --sections 6`` measures this alone.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.reader import open_corpus
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import Cost, describe_machine, middle, run, tool
from tests.benchmarks.slices import real_slices
from tests.benchmarks.timing import times_as_fast


@dataclass(frozen=True)
class BuildResult:
    """What every round of one setting took."""

    what: str
    n_per_slice: int
    n_patches: int
    naive: list[Cost]
    ours: dict[str, list[Cost]]
    """Costs by codec."""
    patch_bytes: dict[str, float]
    """Bytes of a patch in the tar, headers included, by codec."""

    def rows(self) -> list[str]:
        named = {"naive": ("naive Algorithm 1", self.naive)}
        named |= {codec: (f"stbuild, {codec}", costs) for codec, costs in self.ours.items()}
        base, rows, setting = cpu_of(self.naive), [], f"{self.what} | {self.n_per_slice}"
        for name, (title, costs) in named.items():
            cost, size = middle(costs), f"{self.patch_bytes[name]:,.0f}"
            ratio = "1.0" if name == "naive" else times_as_fast(cpu_of(costs), base, 1)
            rows.append(
                f"| {setting} | {title} | {self.n_patches / cost.cpu:.0f} | {ratio} | "
                f"{cost.wall:.1f} | {cost.peak_mb:.0f} | {size} |"
            )
            setting = " | "
        return rows


def cpu_of(costs: list[Cost]) -> list[float]:
    """Return the CPU seconds of every round."""
    return [cost.cpu for cost in costs]


HEAD = [
    "| slices | patches a slice | builder | patches per CPU-second | times naive | wall s | "
    "peak MB | bytes a patch |",
    "|---|---|---|---|---|---|---|---|",
]


MARGINAL_HEAD = [
    "| slices | builder | further patches per CPU-second | times naive |",
    "|---|---|---|---|",
]


def marginal_rows(many: BuildResult, few: BuildResult) -> list[str]:
    """Compare two settings of the same slices: what each further patch costs."""
    n = many.n_patches - few.n_patches
    base = n / (middle(many.naive).cpu - middle(few.naive).cpu)
    rows = [f"| {many.what} | naive Algorithm 1 | {base:.0f} | 1.0 |"]
    for codec, costs in many.ours.items():
        speed = n / (middle(costs).cpu - middle(few.ours[codec]).cpu)
        rows.append(f"| | stbuild, {codec} | {speed:.0f} | **{speed / base:.1f}** |")
    return rows


def build_ours(paths: list[Path], out: Path, n_per_slice: int, codec: str) -> Cost:
    """Compact and shard; return what both together cost."""
    shutil.rmtree(out, ignore_errors=True)
    stbuild = tool("stbuild")
    first = run([stbuild, "compact", *paths, "-o", out / "grids", "-q"])
    config = ["--n-per-slice", str(n_per_slice), "--codec", codec, "-q"]
    return first + run([stbuild, "shard", out / "grids", "-o", out / "corpus", *config])


def build_naive(paths: list[Path], out: Path, n_per_slice: int) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    module = [sys.executable, "-m", "tests.benchmarks.naive"]
    return run([*module, *paths, "-o", out, "--n-per-slice", str(n_per_slice)])


def patch_bytes(corpus: Path) -> float:
    """Return the mean size of a patch in the shards, tar headers and padding included."""
    return float(open_corpus(corpus).index("train").size.mean())


def measure_build(
    what: str, paths: list[Path], out: Path, n_per_slice: int, repeats: int = 3
) -> BuildResult:
    """Build `repeats` times with each builder, in turns."""
    naive: list[Cost] = []
    ours: dict[str, list[Cost]] = {"zstd": [], "lz4": []}
    sizes: dict[str, float] = {}
    for _ in range(repeats):
        naive.append(build_naive(paths, out / "naive", n_per_slice))
        total = sum(path.stat().st_size for path in sorted((out / "naive").glob("*.tar")))
        sizes["naive"] = total / (n_per_slice * len(paths))
        for codec, costs in ours.items():
            folder = out / codec
            costs.append(build_ours(paths, folder, n_per_slice, codec))
            sizes[codec] = patch_bytes(folder / "corpus")
    return BuildResult(
        what,
        n_per_slice,
        n_per_slice * len(paths),
        naive,
        ours,
        sizes,
    )


def synthetic(work: Path, seed: int = 0) -> tuple[str, Path]:
    """Write a slice of Visium's size; return what it is and its file."""
    path = work / f"synthetic-{seed}.h5ad"
    # In a process of its own: a child's peak memory starts at what its parent holds.
    writer = [sys.executable, "-m", "tests.benchmarks.slices", str(path), str(seed)]
    done = subprocess.run(writer, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip(), path


def build_lines(work: Path, repeats: int, n_per_slice: int, sections: int | None) -> list[str]:
    """Return the tables: real and synthetic slices, so many patches a slice and a tenth of them.

    Parameters
    ----------
    work
        Scratch folder.
    repeats
        Rounds.
    n_per_slice
        Patches of a slice.
    sections
        Real sections to take; None takes all.
    """
    real, files = real_slices(sections)
    made, path = synthetic(work)
    build, marginal = list(HEAD), list(MARGINAL_HEAD)
    for what, paths in ((real, files), (made, [path])):
        results = []
        for n in (n_per_slice, max(n_per_slice // 10, 1)):
            print(f"building: {what}, {n} a slice", file=sys.stderr, flush=True)  # noqa: T201
            folder = work / f"{paths[0].stem}-{n}"
            results.append(measure_build(what, paths, folder, n, repeats))
            build += results[-1].rows()
            shutil.rmtree(folder)
        marginal += marginal_rows(*results)
    apart = "What is left when start-up and reading are taken out: the difference of the two rows "
    return [*build, "", f"{apart}of the same slices.", "", *marginal]


def lines(bench: Bench) -> list[str]:
    """Return the tables of a run."""
    return build_lines(bench.work, bench.repeats, bench.n_per_slice, bench.sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-per-slice", type=int, default=500)
    parser.add_argument("--sections", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stcorpus-bench-") as folder:
        work = Path(folder)
        lines = build_lines(work, options.repeats, options.n_per_slice, options.sections)
        print("\n".join([describe_machine(), "", *lines]))  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()
