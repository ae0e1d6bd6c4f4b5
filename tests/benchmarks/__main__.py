"""``python -m tests.benchmarks -o benchmarks/speed.md``: measure everything and write it down."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import bench_build, bench_load
from tests.benchmarks.measure import describe_machine
from tests.benchmarks.slices import real_slices, synthetic_slice

ROUNDS = 3


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a script


def measure(work: Path, repeats: int, n_per_slice: int) -> list[str]:
    """Return the lines of the report."""
    real, files = real_slices()
    synthetic = synthetic_slice(work / "synthetic.h5ad")
    build = list(bench_build.HEAD)
    settings = [
        (real, files, n_per_slice),
        (real, files, max(n_per_slice // 10, 1)),
        (synthetic, [work / "synthetic.h5ad"], n_per_slice),
        (synthetic, [work / "synthetic.h5ad"], max(n_per_slice // 10, 1)),
    ]
    for number, (what, paths, n) in enumerate(settings):
        say(f"building: {what}, {n} patches a slice")
        result = bench_build.measure_build(what, paths, work / f"build{number}", n, repeats)
        build += result.rows()
    say("loading")
    first = work / "build0"
    load = bench_load.measure_load(
        first / "zstd" / "corpus", first / "lz4" / "corpus", work, repeats
    )
    command = "make bench"
    return [
        "# Speed",
        "",
        f"Written by `{command}`; peers are measured in the same run, in turns with ours. "
        f"Medians of {repeats} rounds. CPU seconds are user plus system time of the whole process "
        "tree; arithmetic libraries run on one thread.",
        "",
        describe_machine(),
        "",
        "## Building: .h5ad files to finished shards",
        "",
        "Patches of 16 x 16 sites x 512 genes. Ours includes both commands, `stbuild compact` and "
        "`stbuild shard`, with every file hashed, synced to disk and read back; the naive builder "
        "is `tests/benchmarks/naive.py`. Interpreter start and imports count for both.",
        "",
        *build,
        "",
        "## Loading: shards in the page cache to arrays, one core",
        "",
        "The patches of the first row above. webdataset yields single patches without a shuffle; "
        "ours yields shuffled batches of 64.",
        "",
        *bench_load.HEAD,
        *bench_load.load_rows(load),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/speed.md"))
    parser.add_argument("--repeats", type=int, default=ROUNDS)
    parser.add_argument("--n-per-slice", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stcorpus-bench-") as folder:
        lines = measure(Path(folder), options.repeats, options.n_per_slice)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()
