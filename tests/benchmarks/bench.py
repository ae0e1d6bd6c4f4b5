"""What every part of the benchmarks is given: scratch folder, rounds, slices, corpora.

Grids and corpora are built once a run, when a part first asks for them, and are kept in the
scratch folder, so that parts share them although each is a process of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.reader import Corpus, open_corpus
from tests.benchmarks.measure import run, tool
from tests.benchmarks.slices import real_slices

SECTIONS = 6
"""Real sections that are built."""
LOADED = 4
"""Of these, sections whose patches are loaded."""
N_LOADED = 500
"""Patches of a section that are loaded."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One run of the benchmarks."""

    work: Path
    """Scratch folder."""
    repeats: int = 3
    """Rounds, in turns."""
    corpus: Path | None = None
    """A finished training corpus for the training steps; None builds one."""
    peers: Path | None = None
    """Environment of the peers; None leaves them out."""
    n_per_slice: int = 500
    """Patches of a slice where building is measured."""
    sections: int | None = SECTIONS
    most: int = 10**6
    """Most patches of a corpus whose cost per patch is measured."""

    def slices(self, most: int | None = None) -> tuple[str, list[Path]]:
        """Return what the real slices are, and their files."""
        return real_slices(most or self.sections)

    def grids(self, most: int = LOADED) -> Path:
        """Return the grids of some real slices."""
        paths = self.slices(most)[1]
        return self._once(
            self.work / f"grids-{most}",
            lambda out: run([tool("stbuild"), "compact", *paths, "-o", out, "-q"]),
        )

    def training(self, codec: str) -> Corpus:
        """Return a training corpus under a codec: 16 x 16 sites x 512 genes."""
        options = ["--n-per-slice", str(N_LOADED), "--codec", codec, "-q"]
        return open_corpus(
            self._once(
                self.work / f"train-{codec}",
                lambda out: run([tool("stbuild"), "shard", self.grids(), "-o", out, *options]),
            )
        )

    def evaluation(self) -> Corpus:
        """Return an evaluation corpus that covers every spot, of the genes of `training`."""
        options = ["--cover", "8", "--draws", "1", "-q"]
        options += ["--vocabulary", str(self.training("zstd").root)]
        return open_corpus(
            self._once(
                self.work / "eval",
                lambda out: run([tool("stbuild"), "shard", self.grids(), "-o", out, *options]),
            )
        )

    @staticmethod
    def _once(path: Path, make: Callable[[Path], object]) -> Path:
        if not path.exists():
            make(path)
        return path
