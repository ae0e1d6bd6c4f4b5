"""Every command that writes, run whole once: what a run that was hurt has to end with.

A command reads from the laboratory's own folders and writes below a folder of the test, so that
each may be hurt alone. Bytes are compared, but for what is documented to differ from run to run:
the costs of fits, speeds in a run's log, the times of a release's provenance.
"""

import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq

from stbuild.corpus.durable import PARTIAL
from tests.slices import Spec, write_slice
from tests.sttrain.processes import RECIPE, Job, Starter

SUITE = """
name = "toy"
title = "a toy"
methods = ["majority", "raw", "coords"]
[[data]]
name = "one"
[[checkpoints]]
name = "ours"
what = "any"
untrained = true
[probe]
splits = ["paper20@1"]
heads = ["knn", "logistic"]
seeds = 2
[cluster]
algorithms = ["kmeans"]
numbers = ["true"]
seeds = 2
[reconstruct]
windows = [8]
sizes = [3]
genes = 6
repeats = 2
"""
COMMANDS: dict[str, str] = {
    "compact": "stbuild compact {lab}/alpha.h5ad {lab}/beta.h5ad {lab}/gamma.h5ad -o {out}/grids "
    "--label label --pitch-um 100",
    "shard": "stbuild shard {lab}/grids -o {out}/corpus --window 8 --genes 16 --n-per-slice 12 "
    "--samples-per-shard 9 --whole-slices",
    "cover": "stbuild shard {lab}/grids -o {out}/eval --window 8 --genes 16 --cover 8 --draws 1 "
    "--samples-per-shard 9",
    "publish": "stbuild publish {lab}/corpus -o {out}/release --i-may-redistribute unknown",
    "fit": "sttrain fit {lab}/corpus -c {lab}/recipe.toml -o {out}/run --workers 0 --threads 1 "
    "--device cpu --keep 9 --checkpoint-every 3 --log-every 1",
    "embed": "sttrain embed {lab}/run {lab}/eval -o {out}/ours.h5ad",
    "probe": "sttrain probe {lab}/eval -o {out}/results --method raw --method coords "
    "--embedding ours={lab}/ours.h5ad --split paper20@1 --head knn --head mlp --mlp-epochs 5 "
    "--seeds 2",
    "bench": "sttrain bench {lab}/toy.toml --data one={lab}/eval --checkpoint ours={lab}/run "
    "-o {out}/bench",
}
"""Each reads what those above it made."""
MADE = {
    "compact": "grids", "shard": "corpus", "cover": "eval", "publish": "release", "fit": "run",
    "embed": "ours.h5ad", "probe": "results", "bench": "bench",
}  # fmt: skip
"""What each leaves in its folder."""
APART = (".work", ".lock", ".holder.json", "costs", "tensorboard", "said")
"""Scratch, locks, clocks of fits, event files with times."""
GROWING = ("log.jsonl",)
"""Files that are appended to."""
PROVENANCE = "provenance.intoto.json"
NUMBERS = count()
UNSTEADY = {"wall_seconds", "peak_mib", "code", "patches_per_s", "data_wait"}
"""Clocks and memory among results."""


@dataclass(frozen=True)
class Lab:
    """Inputs, a starter of processes, and what every command makes when nothing happens."""

    root: Path
    starter: Starter
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each command took at least."""

    def start(
        self,
        name: str,
        out: Path,
        *more: str,
        broken: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> Job:
        """Start a command, which writes below `out`."""
        words = COMMANDS[name].format(lab=self.root, out=out).split()
        said = self.root / "said" / f"{name}-{next(NUMBERS)}"
        return self.starter.start(
            [*words[1:], *more], said, broken=broken, program=words[0], environment=environment
        )

    def run(self, name: str, out: Path, *more: str, broken: str | None = None) -> str:
        """Run a command to its good end; return what it said."""
        began = time.monotonic()
        job = self.start(name, out, *more, broken=broken)
        assert job.wait() == [0], job.text()
        took = time.monotonic() - began
        self.seconds[name] = min(took, self.seconds.get(name, took))
        return job.text()

    def check_whole(self, name: str, out: Path) -> None:
        """Compare what a command made with what it makes undisturbed; nothing else is left."""
        found, wanted = contents_of(out, name), contents_of(self.root, name)
        assert found.keys() == wanted.keys()
        assert {path for path in found if found[path] != wanted[path]} == set()
        assert leftovers(out) == []

    def check_part(self, name: str, out: Path) -> None:
        """Every file that stands under a final name is the whole one."""
        found, wanted = contents_of(out, name), contents_of(self.root, name)
        odd = {path for path in found if found[path] != wanted.get(path)}
        assert {path for path in odd if not path.endswith(GROWING)} == set()


def make_lab(root: Path, starter: Starter) -> Lab:
    """Run every command once, each on what the others made."""
    for number, name in enumerate(("alpha", "beta", "gamma")):
        write_slice(root / f"{name}.h5ad", Spec(seed=number, rows=14, cols=12))
    (root / "said").mkdir()
    (root / "recipe.toml").write_text(RECIPE.format(epochs=4))
    (root / "toy.toml").write_text(SUITE)
    lab = Lab(root, starter)
    for name in COMMANDS:
        lab.run(name, root)
    return lab


def contents_of(out: Path, name: str) -> dict[str, str]:
    """Return the steady digest of every finished file of a command, by its path."""
    files = finished_files(out / MADE[name])
    return {path.relative_to(out).as_posix(): steady_digest(path) for path in files}


def finished_files(made: Path) -> Iterator[Path]:
    """Yield the files that stand under final names: not scratch, not locks, not costs."""
    for path in [made] if made.is_file() else sorted(made.rglob("*")):
        scratch = any(PARTIAL in part or part in APART for part in path.parts)
        if path.is_file() and not scratch:
            yield path


def leftovers(out: Path) -> list[str]:
    """Return what no finished run leaves: temporary files and scratch folders."""
    found = [path for path in sorted(out.rglob("*")) if PARTIAL in path.name]
    return [str(path) for path in (*found, *sorted(out.rglob(".work")))]


def steady_digest(path: Path) -> str:
    """Return the digest of a file, or of all in it that does not tell times."""
    raw = path.read_bytes()
    if path.name == "log.jsonl":
        raw = _without_clocks(map(json.loads, raw.splitlines()))
    elif path.name == "toy.csv":
        raw = _without_clocks(csv.DictReader(io.StringIO(raw.decode())))
    elif path.name == "toy.parquet":
        raw = _without_clocks(pq.read_table(io.BytesIO(raw)).to_pylist())
    elif path.name == PROVENANCE:
        raw = re.sub(rb"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-][\d:]+)", b"", raw)
    elif path.name in ("release.json", "SHA256SUMS"):
        raw = _without_provenance(raw)
    return hashlib.sha256(raw).hexdigest()


def _without_clocks(rows: Iterable[dict[str, object]]) -> bytes:
    kept = [{k: v for k, v in row.items() if k not in UNSTEADY} for row in rows]
    return json.dumps(kept, sort_keys=True).encode()


def _without_provenance(raw: bytes) -> bytes:
    """Drop what follows from the times of a release's provenance."""
    if raw.startswith(b"{"):
        found = json.loads(raw)
        found["files"] = [entry for entry in found["files"] if entry["path"] != PROVENANCE]
        return json.dumps(found, sort_keys=True).encode()
    lines = raw.splitlines()
    mine = (PROVENANCE.encode(), b"release.json")
    return b"\n".join(line for line in lines if not line.endswith(mine))
