"""Loading beside peers from PyPI: the same patches, in turns, each in a process of its own.

Every loader gives batches of 32 patches, once as integers and once as float32 log1p(CP10K). What
it gives is compared with the data before anything is timed; formats are written beforehand.
``python -m tests.benchmarks peers --peers ENV``; how a peer is driven stands in its module.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.bench import LOADED, Bench
from tests.benchmarks.exchange import write_exchange
from tests.benchmarks.measure import ROOT, run, tool
from tests.benchmarks.peers_env import make_env, not_installed

N_PER_SLICE = 125
SECONDS = 2.0
"""CPU seconds of a turn: quick peers go through several epochs, slow ones through part of one."""
KINDS = ("integers", "floats")
HEAD = [
    "| loader | integers: patches per CPU-second | times webdataset | float32 log1p(CP10K): "
    "patches per CPU-second | times webdataset | patches per second of wall time, either | "
    "kB a patch on disk, either |",
    "|---|---:|---:|---:|---:|---:|---:|",
]


@dataclass(frozen=True)
class Contender:
    """A loader that takes turns."""

    title: str
    name: str
    """Module of ``tests.benchmarks.peers``, and its variant."""
    package: str
    """What must be installed for it; empty for ours."""


BASE = "webdataset"
CONTENDERS = (
    Contender("sttrain.stream, zstd", "stream:zstd", ""),
    Contender("sttrain.stream, lz4", "stream:lz4", ""),
    Contender("sttrain.stream, not compressed", "stream:none", ""),
    Contender(BASE, "webdataset_tar", "webdataset"),
    Contender("mosaicml-streaming", "mosaic", "mosaicml-streaming"),
    Contender("litdata", "lit", "litdata"),
    Contender("annbatch, dense rows", "annbatch_rows:dense", "annbatch"),
    Contender("annbatch, sparse rows", "annbatch_rows:sparse", "annbatch"),
    Contender("scDataset, dense rows", "scdataset_rows:dense", "scdataset"),
    Contender("scDataset, sparse rows", "scdataset_rows:sparse", "scdataset"),
    Contender("AnnData in memory, crops", "anndata_crops:memory", "anndata"),
    Contender("AnnData backed, crops", "anndata_crops:backed", "anndata"),
    Contender("Zarr, crops", "zarr_crops", "zarr"),
)


@dataclass
class Entry:
    """What became of a contender."""

    contender: Contender
    hello: dict[str, Any] = field(default_factory=dict)
    turns: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {k: [] for k in KINDS})
    error: str | None = None

    def cost(self, kind: str, measure: str = "cpu") -> list[float]:
        """Return the seconds a patch of every turn."""
        return [turn[measure] / turn["patches"] for turn in self.turns[kind]]

    def row(self, base: "Entry | None") -> str:
        """Return the line of the table."""
        if self.error is not None:
            return f"| {self.contender.title} | not measured: {escape(self.error)} | | | | | |"
        cells = []
        for kind in KINDS:
            own = self.cost(kind)
            cells += [f"{1 / median(own):,.0f}", against(own, base.cost(kind)) if base else "-"]
        walls = " / ".join(f"{1 / median(self.cost(kind, 'wall')):,.0f}" for kind in KINDS)
        sizes = " / ".join(f"{self.hello['bytes'][kind] / 1e3:,.0f}" for kind in KINDS)
        return f"| {self.contender.title} | {' | '.join(cells)} | {walls} | {sizes} |"


def against(own: Sequence[float], base: Sequence[float]) -> str:
    """Return how many times as fast as the base: the median of the rounds, least and most."""
    ratios = [theirs / ours for ours, theirs in zip(own, base, strict=True)]
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def escape(text: str) -> str:
    """Return a message as it may stand in a cell: no bars, no paths of this machine."""
    words = [Path(word).name if word.startswith("/") else word for word in text.split()]
    return " ".join(words).replace("|", "/")[:200]


class Server:
    """A contender as a process that answers lines."""

    def __init__(self, python: Path | str, name: str, data: Path, work: Path) -> None:
        module = [str(python), "-m", "tests.benchmarks.peers.serve"]
        threads = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")
        self.process = subprocess.Popen(
            [*module, name, str(data), str(work), str(SECONDS)],
            cwd=ROOT,
            env={**os.environ, **{f"{t}_NUM_THREADS": "1" for t in threads}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """Return the next line; a process that died says so."""
        if self.process.stdout is not None and (line := self.process.stdout.readline()):
            found: dict[str, Any] = json.loads(line)
            return found
        return {"error": f"its process ended with exit code {self.process.wait()}"}

    def ask(self, kind: str) -> dict[str, Any]:
        """Let it take a turn."""
        try:
            if self.process.stdin is not None:
                self.process.stdin.write(f"{kind}\n")
                self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says what happened
        return self.answer()

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def measure_peers(
    data: Path, work: Path, env: Path, repeats: int, contenders: Sequence[Contender] = CONTENDERS
) -> list[Entry]:
    """Let all contenders that work take turns.

    Parameters
    ----------
    data
        What `write_exchange` wrote, with the corpora beside it.
    work
        Scratch folder for the peers' own formats.
    env
        Environment of the peers.
    repeats
        Rounds; each goes through all contenders, integers first.
    contenders
        Who takes part.
    """
    failed, servers = not_installed(env), {}
    entries = [Entry(contender) for contender in contenders]
    for entry in entries:
        name, package = entry.contender.name, entry.contender.package
        if package in failed:
            entry.error = f"would not install: {failed[package]}"
            continue
        print(f"preparing {entry.contender.title}", file=sys.stderr, flush=True)  # noqa: T201
        python = env / "bin" / "python" if package else sys.executable
        server = servers[name] = Server(python, name, data, work / name.replace(":", "-"))
        entry.hello = server.answer()
        entry.error = entry.hello.get("error")
    running = [entry for entry in entries if entry.error is None]
    for _ in range(repeats):
        for kind in KINDS:
            for entry in (entry for entry in running if entry.error is None):
                found = servers[entry.contender.name].ask(kind)
                entry.error = found.get("error")
                entry.turns[kind].append(found)
    for server in servers.values():
        server.close()
    return entries


def table(entries: Sequence[Entry]) -> list[str]:
    """Return the table, and how each loader was driven."""
    sound = [e for e in entries if e.contender.title == BASE and e.error is None]
    base = sound[0] if sound else None
    driven = []
    for entry in entries:
        if entry.error is None:
            versions = ", ".join(f"{k} {v}" for k, v in entry.hello["versions"].items())
            python = f"Python {entry.hello['python']}"
            driven.append(
                f"- {entry.contender.title}: {entry.hello['what']} ({versions}; {python})"
            )
    return [*HEAD, *(entry.row(base) for entry in entries), "", *driven]


def prepare(bench: Bench, root: Path) -> None:
    """Build a corpus of every codec and write the data that all loaders are given."""
    for codec in ("zstd", "lz4", "none"):
        options = ["--n-per-slice", str(N_PER_SLICE), "--codec", codec, "-q"]
        out = root / f"train-{codec}"
        run([tool("stbuild"), "shard", bench.grids(), "-o", out, *options])
    from stbuild.corpus.reader import open_corpus

    write_exchange(open_corpus(root / "train-zstd"), bench.grids(), root)


def lines(bench: Bench) -> list[str]:
    """Measure all contenders and return the table.

    Raises
    ------
    ValueError
        No environment was named.
    """
    if bench.peers is None:
        msg = "the peers need an environment of their own; say where: --peers .venv-peers"
        raise ValueError(msg)
    make_env(bench.peers, os.environ.get("PEERS_PYTHON", sys.executable))
    root = bench.work / "exchange"
    if not root.exists():
        prepare(bench, root)
    entries = measure_peers(root, bench.work / "peers", bench.peers, bench.repeats)
    n = LOADED * N_PER_SLICE
    what = (
        f"{n:,} patches of 16 x 16 sites x 512 genes of {LOADED} sections, batches of 32; a turn "
        f"is {SECONDS:.0f} CPU seconds, epoch after epoch. Every loader's patches were compared "
        "with the data first."
    )
    return [what, "", *table(entries)]
