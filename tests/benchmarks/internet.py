"""The planner at the scale of 100,000 slices, on inputs that exist in their documents alone.

Run ``python -m tests.benchmarks.internet -o FILE``: every stage in a process of its own, with its
time, CPU time and largest resident memory; `benchmarks/scale.md` says what follows from it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from stbuild.build.parts import PartRecord, PartSample
from stbuild.build.shards import Member, plan_digest, plan_shards
from stbuild.config import GridConfig
from stbuild.corpus.documents import (
    CorpusDocument,
    ShardConfig,
    ShardEntry,
    SliceEntry,
    SourceFile,
    VocabularyEntry,
    read_document,
)
from stbuild.grid.catalogue import Catalogue, CatalogueEntry, read_catalogue, write_catalogue
from stbuild.manifests.manifest import read_inputs
from stbuild.plan.preview import plan_tasks
from stbuild.tasks.pipeline import open_runner

SLICES = (1_000, 10_000, 100_000)
SAMPLES = (100_000, 1_000_000, 3_000_000)
_ONE = sha256(b"1").hexdigest()
_PER_SLICE = 10_000
"""Patches of a slice at 10^9 patches of 10^5 slices."""


def read_sheet(folder: Path, n: int) -> Iterator[str]:
    """Read a sample sheet and plan the task of every slice; no slice is opened."""
    rows = (f"s{i},d/{i:06d}.h5ad,D{i % 9000},human,cc-by-4.0" for i in range(n))
    (folder / "s.csv").write_text(
        "slice,path,donor,species,licence\n" + "".join(f"{row}\n" for row in rows)
    )
    (folder / "m.toml").write_text('name = "internet"\nsamples = "s.csv"\n')
    yield "ready"
    tasks = plan_tasks(read_inputs([str(folder / "m.toml")]), GridConfig(), ShardConfig(name="x"))
    yield f"{len(tasks):,} tasks"


def list_grids(folder: Path, n: int) -> Iterator[str]:
    """Write and read the catalogue of all grids."""
    entries = tuple(
        CatalogueEntry(slug=f"s{i:06d}", fingerprint=_ONE, content=_ONE) for i in range(n)
    )
    catalogue = Catalogue(name="internet", shard={}, grids=entries)
    yield "ready"
    write_catalogue(folder, catalogue)
    read_catalogue(folder)
    yield f"{(folder / 'grids.json').stat().st_size / 1e6:.1f} MB"


def write_document(folder: Path, n: int) -> Iterator[str]:
    """Write and read ``corpus.json`` with `n` slices and as many shards."""
    source = SourceFile(name="d/x.h5ad", bytes=10**8, sha256=_ONE)
    slices = tuple(
        SliceEntry(
            slug=f"s{i:06d}", name=f"s{i}", split="train", donor=f"D{i % 9000}", section=None,
            pair=None, platform="visium", tissue="brain", species="human", licence="cc-by-4.0",
            layout="hex-offset", grid=(78, 64), n_spots=3000, n_genes=20_000, n_vocabulary=20_000,
            n_labelled=0, n_patches=_PER_SLICE, sources=(source,), grid_content=_ONE,
        )
        for i in range(n)
    )  # fmt: skip
    shards = tuple(
        ShardEntry(
            path=f"data/train/internet-train-cc-by-4-0-{i:05d}.tar", split="train", kind="patch",
            licence="cc-by-4-0", n_samples=1024, bytes=33 * 10**6, sha256=_ONE, content=_ONE,
        )
        for i in range(n)
    )  # fmt: skip
    config = ShardConfig(name="internet")
    document = CorpusDocument(
        name="internet", corpus_id=_ONE, fingerprint=_ONE, config=config,
        vocabulary=VocabularyEntry(n_genes=60_000, sizes=(60_000,), digest=_ONE), labels=(),
        slices=slices, shards=shards, files=(),
    )  # fmt: skip
    yield "ready"
    path = folder / "corpus.json"
    path.write_bytes(document.to_bytes())
    read_document(CorpusDocument, path.read_bytes(), str(path))
    yield f"{path.stat().st_size / 1e6:.1f} MB"


def fill_shards(_folder: Path, n: int) -> Iterator[str]:
    """Assign `n` samples to shards, with what every sample holds in a build."""
    per_slice = min(_PER_SLICE, n)
    members = [Member(part=_part(i, per_slice), generation=0, licence="cc-by-4-0")
               for i in range(n // per_slice)]  # fmt: skip
    yield "ready"
    plans = plan_shards(members, ShardConfig(name="internet"))
    plan_digest(plans)
    yield f"{len(plans):,} shards"


def _part(slice_number: int, n: int) -> PartRecord:
    slug = f"s{slice_number:06d}"

    def sample(i: int) -> PartSample:
        # Strings of its own, as they are when a record is read.
        return PartSample.model_construct(
            key=f"{slug}_w{i:06d}", kind="patch", split="train", offset=i * 32_256, size=32_256,
            sha256=f"{slice_number:032x}{i:032x}", content=f"{i:032x}{slice_number:032x}",
            row=i % 70 + 1000, col=i % 50 + 1000, draw=0, observed=256, tries=1, n_genes=512,
        )  # fmt: skip

    samples = tuple(sample(i) for i in range(n))
    return PartRecord.model_construct(
        fingerprint=_ONE, slug=slug, bytes=n * 32_256, sha256=_ONE, samples=samples
    )


def pass_tasks(folder: Path, n: int) -> Iterator[str]:
    """Send `n` tasks that do nothing through a scheduler to two workers, and their results back."""
    names = [str(folder / f"s{i:06d}.zarr") for i in range(n)]
    with open_runner(2) as runner:
        runner(os.path.basename, names[:10], lambda: None)
        yield "ready"
        outcomes = runner(os.path.basename, names, lambda: None)
    yield f"{sum(o.result is not None for o in outcomes):,} results"


STAGES: dict[str, tuple[Callable[[Path, int], Iterator[str]], tuple[int, ...], str]] = {
    "sheet": (read_sheet, SLICES, "sample sheet to tasks, slices"),
    "grids": (list_grids, SLICES, "grids.json written and read, grids"),
    "document": (write_document, SLICES, "corpus.json written and read, slices and shards"),
    "shards": (fill_shards, SAMPLES, "shards planned, patches"),
    "tasks": (pass_tasks, (1_000, 10_000, 100_000), "tasks through a scheduler and 2 workers"),
}


def measure(stage: str, n: int) -> str:
    """Run one stage here and return a row of the table."""
    action, _, what = STAGES[stage]
    with tempfile.TemporaryDirectory() as name:
        steps = action(Path(name), n)
        next(steps)
        start, cpu = time.perf_counter(), time.process_time()
        made = next(steps)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for _ in steps:
            pass
    return f"| {what} | {n:,} | {made} | {seconds:.1f} s ({cpu:.1f}) | {peak:,.0f} MiB |"


def main() -> None:
    """Measure every stage at every size, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--measure", nargs=2)
    parser.add_argument("--most", type=int, default=10**9, help="leave larger sizes out")
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(measure(options.measure[0], int(options.measure[1])))
        return
    rows = ["| stage | size | made | wall (CPU) | peak |", "|---|---|---|---|---|"]
    for stage in options.stages:
        for n in (size for size in STAGES[stage][1] if size <= options.most):
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.internet",
                "--measure",
                stage,
                str(n),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(done.stdout)
            sys.stdout.write(done.stdout + "\n")
            sys.stdout.flush()
    if options.output is not None:
        options.output.write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
