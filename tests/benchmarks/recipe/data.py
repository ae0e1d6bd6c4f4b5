"""The sections of an experiment: who is trained on, who is judged, as corpora of this project."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.corpora import Origin, make_grids, make_shards
from tests.benchmarks.recipe.plan import DataPlan

HER2ST = Origin(
    species="Homo sapiens", tissue="breast", platform="ST", pitch_um=200,
    donors=tuple((letter, letter) for letter in "ABCDEFGH"),
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """Corpora of one side: encoders are trained on some donors and judged on the others."""

    tested: tuple[str, ...]
    """Donors that no encoder has seen."""
    train: Path
    """Training corpus: all sections of the other donors."""
    seen: Path
    """Evaluation corpus of the labelled sections of all donors, for splits by donor."""
    own: Path
    """The same of the tested donors alone, for splits within them."""


def make_side(data: Path, work: Path, plan: DataPlan, tested: Sequence[str]) -> Side:
    """Build the corpora of one side; what stands already is left as it is."""
    name = "".join(tested)
    files = sorted((data / plan.folder).glob("*.h5ad"))
    labelled = [file for file in files if file.stem[1:] == "1"]
    rest = [file for file in files if file.stem[0] not in tested]
    train = make_shards(
        make_grids(work, f"not-{name}", rest, HER2ST, label=False),
        work / "corpora" / f"not-{name}",
        "--genes", plan.genes, "--n-per-slice", plan.n_per_slice, "--whole-slices",
    )  # fmt: skip
    cover = ("--cover", plan.cover, "--draws", plan.draws, "--genes", plan.eval_genes)
    known = ("--vocabulary", train)
    mine = [file for file in labelled if file.stem[0] in tested]
    seen = make_grids(work, "labelled", labelled, HER2ST, label=True)
    own = make_grids(work, name, mine, HER2ST, label=True)
    return Side(
        tested=tuple(tested),
        train=train,
        seen=make_shards(seen, work / "corpora" / f"seen-{name}", *cover, *known),
        own=make_shards(own, work / "corpora" / f"own-{name}", *cover, *known),
    )
