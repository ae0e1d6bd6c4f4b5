"""Rows of a suite: every score of every task in one table, with what it cost.

One row is one (method, task@version, data set, split, seed), over all judged spots or over those
of one slice; columns of other tasks are none.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from sttrain.judge.cluster import ClusterRow
from sttrain.judge.fit_costs import CostRow
from sttrain.judge.metrics import METRICS
from sttrain.judge.reconstruct import RegionRow
from sttrain.judge.results import ResultRow
from sttrain.judge.rows import later_column

DETECTION = "domain-detection@1"
CLUSTERING = "clustering@1"
RECONSTRUCTION = "reconstruction@1"
CLUSTER_METRICS = ("ari", "nmi", "chaos", "pas")
REGION_METRICS = ("mse", "mae", "pearson_gene", "pearson_spot", "poisson_deviance")
LOWER_IS_BETTER = frozenset({"chaos", "pas", "mse", "mae", "poisson_deviance"})


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One row of a suite."""

    suite: str
    data: str
    """Name of the data set in the suite."""
    corpus: str
    corpus_id: str
    method: str
    source: str
    source_digest: str
    """Of all that decides the method's answers."""
    checkpoint: str | None
    task: str
    """``task@version``."""
    split: str
    """Split of a probe, number of domains of a clustering, window and size of hidden squares."""
    head: str
    """Classifier or algorithm; empty where there is none."""
    seed: int
    repeat: int
    slice: str | None
    """None for scores that are pooled over all slices."""
    group: str | None
    """Donor of the slice, or the slice where no donor is known: the unit of resampling."""
    accuracy: float | None = None
    ari_pred: float | None = None
    macro_f1: float | None = None
    balanced_accuracy: float | None = None
    ari: float | None = None
    nmi: float | None = None
    chaos: float | None = None
    pas: float | None = None
    mse: float | None = None
    mae: float | None = None
    pearson_gene: float | None = None
    pearson_spot: float | None = None
    poisson_deviance: float | None = None
    epochs: int | None = None
    converged: bool | None = later_column()
    """This and the following are those of `sttrain.judge.results.ResultRow`, of classifiers."""
    transductive: bool | None = later_column()
    seen: str | None = later_column()
    held_out: str | None = later_column()
    rare: str | None = later_column()
    absent: str | None = later_column()
    settings: str
    versions: str
    """Versions of the software when it was computed, JSON."""
    code: str | None
    """Commit of the code when it was computed, JSON."""
    wall_seconds: float | None
    """Time of the job, none where another command computed it without keeping it."""
    peak_mib: float | None
    job: str


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """What the rows of one data set have in common."""

    suite: str
    data: str
    groups: Mapping[str, str]
    """Donor, or else the slice itself, by slug."""
    costs: Mapping[str, CostRow]

    def detection(self, row: ResultRow) -> BenchRow:
        """Return the scores of a classifier."""
        made = self._start(row, row.slice)
        return made(
            source=row.source,
            task=DETECTION,
            split=row.split,
            head=row.head,
            seed=row.seed,
            repeat=row.repeat,
            epochs=row.epochs,
            converged=row.converged,
            transductive=row.transductive,
            seen=row.seen,
            held_out=row.held_out,
            rare=row.rare,
            absent=row.absent,
            **_scores(row, METRICS),
        )

    def clustering(self, row: ClusterRow) -> BenchRow:
        """Return the scores of the domains of a slice."""
        made = self._start(row, row.slice)
        return made(
            source=row.source,
            task=CLUSTERING,
            split=f"{row.number} number",
            head=row.algorithm,
            seed=row.seed,
            repeat=0,
            **_scores(row, CLUSTER_METRICS),
        )

    def reconstruction(self, row: RegionRow) -> BenchRow:
        """Return the scores of a filled square."""
        made = self._start(row, row.slice)
        return made(
            source="filler",
            task=RECONSTRUCTION,
            split=f"window {row.window}, size {row.size}",
            head="",
            seed=0,
            repeat=row.repeat,
            **_scores(row, REGION_METRICS),
        )

    def _start(
        self, row: ResultRow | ClusterRow | RegionRow, slug: str | None
    ) -> Callable[..., BenchRow]:
        cost = self.costs.get(row.job)
        return partial(
            BenchRow,
            suite=self.suite,
            data=self.data,
            corpus=row.corpus,
            corpus_id=row.corpus_id,
            method=row.method,
            source_digest=row.source_digest,
            checkpoint=row.checkpoint,
            slice=slug,
            group=None if slug is None else self.groups[slug],
            settings=row.settings,
            versions=row.versions,
            code=cost.code if cost else None,
            wall_seconds=cost.wall_seconds if cost else None,
            peak_mib=cost.peak_mib if cost else None,
            job=row.job,
        )


def _scores(row: object, names: Iterable[str]) -> dict[str, float | None]:
    return {name: getattr(row, name) for name in names}
