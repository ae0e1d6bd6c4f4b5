"""What benchmarks/quality.md is made from: data sets, their sections and how they are judged."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tests.benchmarks.corpora import Origin

FILE = Path(__file__).with_name("plan.toml")
OBJECTIVES = ("patch", "multispot", "spot", "slice")
"""Units of training; all meet as many site-gene values."""
ALONE = "-alone"
"""Ending of an encoder's name where its vectors have no expression beside them."""
MLP_STEPS = 2000
HEADS = ("knn", "logistic", "logistic-each", "mlp")
WITHOUT_MLP = (
    "raw", "libsize", "coords-shuffled", "pca10", "pca10-centred", "nbmean6-pca10",
    "nbmean6-pca50", "nbmean18-pca10", "nbmean36-pca10", "nbmean36-pca50",
    "nbmean18-pca50-centred", "banksy18-pca10",
)  # fmt: skip
"""Controls that the network is not trained on: it takes as long as everything else together."""


class Judged(BaseModel):
    """Labelled sections that are judged together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    data: str
    """Name in the suites."""
    files: tuple[str, ...]
    seeds: int = 5


class DataSet(BaseModel):
    """Sections that encoders are trained on, without labels, and those that they are judged on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    species: str
    tissue: str
    platform: str
    pitch_um: float | None = None
    donors: dict[str, str] = {}
    compact: tuple[str, ...] = ()
    """Options of `stbuild compact`."""
    train: str
    n_per_slice: int
    judged: tuple[Judged, ...]
    variants: bool = False
    """Judge windows and numbers of genes too, on the first of these."""

    @property
    def origin(self) -> Origin:
        """Return where the sections come from."""
        return Origin(
            self.species, self.tissue, self.platform, self.pitch_um, tuple(self.donors.items()),
            self.compact,
        )  # fmt: skip


def read_plan() -> Sequence[DataSet]:
    """Read the data sets of this project."""
    return [DataSet.model_validate(each) for each in tomllib.loads(FILE.read_text())["sets"]]


def probe_options(seeds: int) -> list[str]:
    """Return what is laid over both suites: fewer seeds, fewer steps of the network."""
    heads = ",".join(f'"{head}"' for head in HEADS)
    return _options(
        f"probe.seeds={seeds}",
        "probe.held_out_seeds=1",
        f"probe.mlp_steps={MLP_STEPS}",
        f"probe.heads=[{heads}]",
        "probe.reduce=[]",
    )


def suite_options(seeds: int) -> list[str]:
    """Return what is laid over the suite `honest`."""
    without = ",".join(f'{{method="{name}",heads=["mlp"]}}' for name in WITHOUT_MLP)
    more = _options(f"without=[{without}]", "cluster.seeds=3", "reconstruct.repeats=10")
    return [*probe_options(seeds), *more]


def _options(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]
