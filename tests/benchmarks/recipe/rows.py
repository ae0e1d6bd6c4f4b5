"""Every score of an experiment, in one Parquet file; a rerun adds what is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from tests.benchmarks.recipe.trial import Score

KEYS = ["tested", "arm", "seed", "inference", "split", "fold", "head"]


class RowStore:
    """A file of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def has(self, tested: Sequence[str], arm: str, seed: int) -> bool:
        """Return whether an arm was judged."""
        if self.rows.empty:
            return False
        mine = (self.rows.tested == "".join(tested)) & (self.rows.seed == seed)
        return arm in set(self.rows[mine].arm)

    def add(
        self,
        tested: Sequence[str],
        arm: str,
        seed: int,
        scores: Iterable[tuple[str, Score]],
        *,
        explained: float | None = None,
        targets: int = 0,
        loss: float = float("nan"),
    ) -> None:
        """Keep the scores of an arm in place of older ones."""
        made_by = {
            "tested": "".join(tested), "seed": seed,
            "explained": float("nan") if explained is None else explained,
            "targets": targets, "loss": loss,
        }  # fmt: skip
        new = pd.DataFrame([{**made_by, "arm": name, **asdict(score)} for name, score in scores])
        both = pd.concat([self.rows, new], ignore_index=True)
        both = both.drop_duplicates(KEYS, keep="last").sort_values(KEYS, ignore_index=True)
        both.to_parquet(self.path, index=False)
        self.rows = both
