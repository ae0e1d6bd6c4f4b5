"""Means and paired differences of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

NONE = "-"
"""Where there is no number."""
Column = tuple[str, str]
COLUMNS: tuple[Column, ...] = tuple(
    (split, head)
    for split in ("paper20", "block20", "donor-out")
    for head in ("knn", "logistic", "mlp")
)
"""Split and head."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of ARI."""

    mean: float
    error: float
    """Standard error of the mean over the units."""

    @property
    def is_clear(self) -> bool:
        """Whether it is beyond two standard errors."""
        return self.error > 0 and abs(self.mean) > 2 * self.error


def of_arm(rows: pd.DataFrame, arm: str, inference: str) -> pd.DataFrame:
    """Return the rows of an arm, or of a control, under one way to make vectors."""
    return rows[(rows.arm == arm) & (rows.inference == inference)]


def cells(rows: pd.DataFrame, columns: Sequence[Column]) -> list[str]:
    """Return accuracy / ARI of every column, means over seeds and folds."""
    found = []
    for split, head in columns:
        mine = rows[(rows.split == split) & (rows["head"] == head)]
        text = f"{mine.accuracy.mean():.3f} / {mine.ari.mean():.3f}"
        found.append(NONE if mine.empty else text)
    return found


def difference(mine: pd.DataFrame, other: pd.DataFrame, column: Column) -> Difference | None:
    """Return mine less other; None where they share no unit.

    Units are the seeds of weights within donors, and donors across them: folds of one seed see
    the same weights. A control has no weights of its own and stands for every seed.
    """
    a, b = (_values(part, column) for part in (mine, other))
    seeds = a.columns
    if [int(seed) for seed in b.columns] == [0]:
        b = pd.concat([b[0]] * len(seeds), axis=1, keys=seeds)
    seeds = seeds.intersection(b.columns)
    found = (a[seeds] - b[seeds]).dropna()
    if found.empty:
        return None
    units = found.mean(axis=1 if column[0] == "donor-out" else 0).to_numpy()
    error = float(np.std(units, ddof=1) / np.sqrt(len(units))) if len(units) > 1 else 0.0
    return Difference(float(units.mean()), error)


def _values(rows: pd.DataFrame, column: Column) -> pd.DataFrame:
    """Return ARI by fold (rows) and seed of the weights (columns)."""
    mine = rows[(rows.split == column[0]) & (rows["head"] == column[1])]
    return mine.pivot_table(index="fold", columns="seed", values="ari")
