"""``python -m tests.benchmarks -o benchmarks/speed.md``: measure everything and write it down."""

import argparse
import sys
import tempfile
from pathlib import Path

from stbuild.corpus.reader import open_corpus
from tests.benchmarks import bench_build
from tests.benchmarks.measure import describe_machine
from tests.benchmarks.slices import real_slices

ROUNDS = 3


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a script


def measure(work: Path, repeats: int, n_per_slice: int) -> list[str]:
    """Return the lines of the report."""
    files = real_slices()[1]
    build = bench_build.build_lines(work, repeats, n_per_slice, None)
    say("loading")
    # Late: what is loaded counts as a child's memory.
    from tests.benchmarks import bench_load, bench_probe, bench_step

    first = work / f"{files[0].stem}-{n_per_slice}"
    load = bench_load.measure_load(
        first / "zstd" / "corpus", first / "lz4" / "corpus", work, repeats
    )
    say("training steps")
    corpus = open_corpus(first / "zstd" / "corpus")
    step = bench_step.step_lines(corpus, bench_step.RECIPE, repeats)
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
        "The patches of the first row above. webdataset yields patches without a shuffle; "
        "ours yields shuffled batches of 64.",
        "",
        *bench_load.HEAD,
        *bench_load.load_rows(load),
        "",
        *bench_probe.probe_lines(repeats),
        "## Training steps, one core",
        "",
        "From the integers of a batch to updated weights. The peer is the same model out of "
        "`torch.nn.TransformerEncoderLayer` in float32, every site a token, a dense gene table "
        "under dense AdamW (`tests/benchmarks/plain.py`); ours drops hidden and unobserved sites. "
        "The share of peak is that of the products which the model needs, over the fastest "
        "product of the same run. Medians, least and greatest of the turns.",
        "",
        *step,
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
