"""What judging costs: seconds and memory of every job, beside the results and never in them.

Clocks differ from run to run and results do not, so these rows stand in files of their own.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stbuild.corpus.jsonio import dump_canonical
from sttrain.judge.rows import RowTable
from sttrain.train.environment import git_state

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one job took."""

    job: str
    corpus_id: str
    wall_seconds: float
    """Time of the fit and its predictions; of a group that is fitted together, the job's share."""
    peak_mib: float
    """Most memory that the process had held at its end, in MiB, everything before included."""
    code: str
    """Commit of the code and whether it was changed since, JSON; empty where git says nothing."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a call took."""

    wall_seconds: float
    peak_mib: float


def measured(call: Callable[[], Result]) -> tuple[Result, Cost]:
    """Return what a call returns, and what it took."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    # Kibibytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return result, Cost(wall_seconds=seconds, peak_mib=peak)


@dataclass(frozen=True)
class CostKeeper:
    """Where costs go; nowhere, where they are not wanted."""

    table: RowTable[CostRow] | None
    code: str = "{}"

    @classmethod
    def of(cls, root: Path, corpus_id: str, *, keep: bool) -> "CostKeeper":
        """Keep costs in a folder of results, or do not."""
        if not keep:
            return cls(None)
        return cls(cost_table(root, corpus_id), dump_canonical(git_state()).decode())

    def add(self, cost: Cost, *jobs: str) -> None:
        """Store what some jobs took that were done together; files are known by the first."""
        if self.table is None:
            return
        rows = [
            CostRow(
                job=job,
                corpus_id=self.table.corpus_id,
                wall_seconds=cost.wall_seconds / len(jobs),
                peak_mib=cost.peak_mib,
                code=self.code,
            )
            for job in jobs
        ]
        self.table.add(f"cost_{jobs[0]}", rows)


def cost_table(root: Path, corpus_id: str) -> RowTable[CostRow]:
    """Return the costs that a folder of results keeps."""
    return RowTable(root / "costs", CostRow, corpus_id)


def read_costs(root: Path, corpus_id: str) -> Mapping[str, CostRow]:
    """Return the costs of a folder of results by job; jobs of older versions have none.

    Raises
    ------
    BadInputError
        Costs of another corpus among them.
    IntegrityError
        A file that is damaged.
    """
    return {row.job: row for row in cost_table(root, corpus_id).rows()}
