"""The paper's tables over windows, numbers of genes and ways to choose them, on one section.

Every variant is trained on as many sites and steps as the others, by the base of
``tests/benchmarks/recipe/arms.toml``, and judged by the suites of the paper's tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from sttrain.train.config import FitOptions
from sttrain.train.run import fit
from tests.benchmarks.corpora import command, make_grids, make_shards
from tests.benchmarks.measure import ROOT
from tests.benchmarks.quality.plan import MLP_STEPS, DataSet
from tests.benchmarks.recipe.plan import ALONE, INFERENCES, read_plan

SITES: Final = 16 * 16
PATCHES: Final = 1600
"""A slice, of 16 x 16 sites."""
BATCH: Final = 16
DATA: Final = "dlpfc-6"
OPTIONS = FitOptions(threads=1, workers=1, logger=(), checkpoint_every=10**9)


@dataclass(frozen=True)
class Variant:
    """How patches are cut."""

    window: int = 16
    genes: int = 512
    select: str = "weighted"

    def share(self, number: int) -> int:
        """Return how many patches have the sites of so many of 16 x 16."""
        area = self.window**2
        return max(1, (number * SITES + area // 2) // area)


VARIANTS: Mapping[str, Variant] = {
    **{f"w{window}": Variant(window=window) for window in (8, 14, 16, 20, 22, 24, 26, 30)},
    "g256": Variant(genes=256),
    "g128": Variant(genes=128),
    "hvg": Variant(select="hvg"),
    "random": Variant(select="random"),
}
"""By the names that the suites give to views of a data set."""
STANDARD: Final = "w16"
_WINDOWS = {f"ours-{w}": f"w{w}" for w in (8, 16, 24, 30)}
TABLES: Mapping[str, Mapping[str, str]] = {
    "table1": _WINDOWS,
    "table3": _WINDOWS,
    "table4": {f"ours-{w}": f"w{w}" for w in (8, 14, 16, 20, 24, 26, 30)},
    "table5": {"ours-512": STANDARD, "ours-256": "g256", "ours-128": "g128"},
    "table6": {"ours-weighted": STANDARD, "ours-hvg": "hvg", "ours-random": "random"},
    "table7": {f"ours-{w}": f"w{w}" for w in (20, 22, 24, 26, 30)},
}
"""Checkpoints of each suite, and the variant that they are of."""
TITLES: Mapping[str, str] = {
    "table1": "Table 1: windows, the paper's network",
    "table3": "Table 3: windows, nearest neighbours",
    "table4": "Table 4: the size of the window",
    "table5": "Table 5: the number of genes",
    "table6": "Table 6: how genes are chosen",
    "table7": "Table 7: hidden squares, squared error by window and side",
}


def train_variants(data: Path, work: Path, plan: DataSet) -> None:
    """Build the corpora of every variant and train it."""
    files = sorted(data.glob(plan.train))
    judged = sorted(data.glob(plan.judged[0].files[0]))
    train = make_grids(work, f"{plan.name}-train", files, plan.origin, label=False)
    own = make_grids(work, f"{plan.judged[0].name}-eval", judged, plan.origin, label=True)
    for name, variant in VARIANTS.items():
        cut = (
            "--window", variant.window, "--genes", variant.genes, "--select", variant.select,
        )  # fmt: skip
        corpus = make_shards(
            train, work / "variants" / f"train-{name}", *cut, "--n-per-slice",
            variant.share(PATCHES),
        )  # fmt: skip
        make_shards(
            own, evaluation(work, name), *cut, "--cover", variant.window // 2, "--draws", 4,
            "--vocabulary", corpus,
        )  # fmt: skip
        recipe = read_plan()
        config = recipe.recipe(recipe.arms[0], 0)
        settings = {"batch": variant.share(BATCH), "inference": INFERENCES[ALONE]}
        fit(corpus, run_of(work, name), config.model_copy(update=settings), OPTIONS)


def evaluation(work: Path, name: str) -> Path:
    """Return the evaluation corpus of a variant."""
    return work / "variants" / f"eval-{name}"


def run_of(work: Path, name: str) -> Path:
    """Return the run of a variant."""
    return work / "variants" / f"run-{name}"


def judge_table(work: Path, table: str) -> pd.DataFrame:
    """Run the suite of a table of the paper and return its rows."""
    checkpoints = TABLES[table]
    # Table 7 fills windows of every size itself, and its models need no corpus of their own.
    views = set() if table == "table7" else set(checkpoints.values()) - {STANDARD}
    given = {DATA: STANDARD} | {f"{DATA}/{view}": view for view in sorted(views)}
    steps = () if table == "table7" else ("--set", f"probe.mlp_steps={MLP_STEPS}")
    results = work / "results" / table
    command(
        "sttrain", "bench", "run", ROOT / "manifests" / "suites" / f"{table}.toml", "-o", results,
        "--skip-missing", *steps,
        *(p for n, v in given.items() for p in ("--data", f"{n}={evaluation(work, v)}")),
        *(p for n, v in checkpoints.items() for p in ("--checkpoint", f"{n}={run_of(work, v)}")),
    )  # fmt: skip
    return pd.read_parquet(results / f"{table}.parquet")
