"""The rows that benchmarks/quality.md is made from, in files that the repository keeps."""

from pathlib import Path

import pandas as pd

from tests.benchmarks.quality.plan import OBJECTIVES, DataSet
from tests.benchmarks.quality.work import TENTHS, curve, run_of

ROWS, LOSSES = "quality.parquet", "quality-losses.csv"
KEYS = ["set", "task", "method", "head", "split"]
METRICS = [
    "accuracy", "ari_pred", "macro_f1", "ari", "nmi", "chaos", "pas",
    "mse", "mae", "pearson_gene", "pearson_spot",
]  # fmt: skip


def keep_rows(folder: Path, name: str, rows: pd.DataFrame) -> None:
    """Put the rows of a set in place of its older ones.

    Scores of classifiers are kept pooled over slices, one row a seed or held-out donor; the others
    as means over the slices and repetitions of a seed.
    """
    detected = rows.task.str.startswith("domain-detection")
    rows = rows[rows.slice.isna() | ~detected]
    means = rows.groupby(["task", "method", "head", "split", "seed"], sort=True)[METRICS].mean()
    _replace(folder / ROWS, name, means.reset_index().assign(set=name))


def keep_losses(folder: Path, work: Path, plan: DataSet) -> None:
    """Put the losses of a set's runs in place of older ones."""
    path = folder / LOSSES
    rows = [
        {"set": plan.name, "objective": name}
        | {f"t{i}": round(x, 4) for i, x in enumerate(curve(run_of(work, plan, name)))}
        for name in OBJECTIVES
    ]
    found = pd.DataFrame(rows, columns=["set", "objective", *(f"t{i}" for i in range(TENTHS))])
    if path.exists():
        old = pd.read_csv(path)
        found = pd.concat([old[old.set != plan.name], found], ignore_index=True)
    found.to_csv(path, index=False)


def _replace(path: Path, name: str, new: pd.DataFrame) -> None:
    if path.exists():
        old = pd.read_parquet(path)
        new = pd.concat([old[old.set != name], new], ignore_index=True)
    new.sort_values([*KEYS, "seed"], ignore_index=True).to_parquet(path, index=False)
