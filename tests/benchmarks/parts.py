"""The parts of the benchmarks: their names, whose they are, and who measures them.

Each runs in a process of its own (``python -m tests.benchmarks.parts NAME WORK ...``), because
what is loaded counts as a child's memory, and so that one that fails takes no other with it.
"""

import argparse
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import describe_machine
from tests.benchmarks.report import FOLDER, write_part


@dataclass(frozen=True)
class Part:
    """One part, measured by ``lines(bench)`` of a module."""

    module: str
    group: str
    what: str


PARTS = {
    "build": Part("bench_build", "stbuild", "building beside the naive Algorithm 1"),
    "profile-build": Part("profile_build", "stbuild", "where building spends its time"),
    "grid": Part("bench_grid", "stbuild", "grids beside h5ad, HDF5 and plain Zarr"),
    "codecs": Part("bench_codecs", "stbuild", "bytes and time of a patch by codec"),
    "size": Part("bench_size", "stbuild", "cost per patch against the size of the corpus"),
    "workers": Part("bench_workers", "stbuild", "building and loading over workers"),
    "load": Part("bench_load", "sttrain", "loading beside webdataset"),
    "step": Part("bench_step", "sttrain", "training steps beside PyTorch's own parts"),
    "profile-step": Part("profile_step", "sttrain", "where a training step spends its time"),
    "embed": Part("bench_embed", "sttrain", "embedding beside PyTorch's own parts"),
    "probe": Part("bench_probe", "sttrain", "the MLP of the probes beside scikit-learn"),
    "peers": Part("bench_peers", "peers", "loading beside peers from PyPI"),
}


def choose(names: list[str]) -> list[str]:
    """Return the parts that are named, alone or by their group; all but the peers for none.

    Raises
    ------
    ValueError
        A name that is neither.
    """
    groups = sorted({part.group for part in PARTS.values()})
    if unknown := [name for name in names if name not in PARTS and name not in groups]:
        known = ", ".join([*PARTS, *groups])
        msg = f"no part is called {', '.join(unknown)}; there are {known}"
        raise ValueError(msg)
    wanted = names or ["stbuild", "sttrain"]
    return [name for name, part in PARTS.items() if name in wanted or part.group in wanted]


def measure_part(name: str, bench: Bench, folder: Path = FOLDER) -> None:
    """Measure one part and write its tables, with what they were measured on above them."""
    before = os.getloadavg()[0]
    module = import_module(f"tests.benchmarks.{PARTS[name].module}")
    found = module.lines(bench)
    load = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    turns = f"{bench.repeats} rounds in turns"
    stamp = [f"`python -m tests.benchmarks {name}`: {turns}; {load}.", "", describe_machine(), ""]
    write_part(name, [*stamp, *found], folder)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run and each of its parts are told."""
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--corpus", type=Path, help="training corpus for the training steps")
    parser.add_argument("--peers", type=Path, help="environment of the peers; made if missing")
    parser.add_argument("--most", type=int, default=10**6, help="most patches of a corpus")


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(PARTS))
    parser.add_argument("work", type=Path)
    add_options(parser)
    given = vars(parser.parse_args())
    measure_part(given.pop("name"), Bench(**given))


if __name__ == "__main__":
    main()
