"""How well a hidden region was filled; the rules for what does not vary are fixed here.

Errors are of log1p(CP10K). Letters: n hidden spots, M genes.
"""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_RATE: Final = 1e-3
"""Counts below which an expected count is not trusted: the deviance of a count above 0 would be
infinite at 0. How many were raised to it is part of the scores."""
LARGEST: Final = 500.0
"""Largest absolute value that is scored; all counts there are stay below 10, and expected counts
of larger ones overflow."""
_VARIES: Final = 1e-9
"""A column with a smaller standard deviation is constant."""


@dataclass(frozen=True, kw_only=True)
class RegionScores:
    """Agreement of (n, M) predicted and true values."""

    mse: float
    """Mean squared error."""
    mae: float
    """Mean absolute error."""
    pearson_gene: float | None
    """Mean over genes of the correlation across hidden spots; none if no gene varies."""
    pearson_spot: float | None
    """Mean over hidden spots of the correlation across genes; none if no spot varies."""
    poisson_deviance: float
    """Mean of 2 (y log(y / mu) - y + mu) of the counts y, with mu the predicted share of the true
    library size."""
    genes_left_out: int
    """Genes that are constant among the hidden spots, in truth or as predicted: no correlation."""
    spots_left_out: int
    """Spots that are constant among the genes, likewise."""
    rates_raised: int
    """Expected counts below `LEAST_RATE` that were raised to it for the deviance."""


REGION_METRICS: Final = tuple(field.name for field in fields(RegionScores))


def find_overflow(predicted: NDArray[np.float64]) -> str | None:
    """Say how many of the predictions cannot be scored; None if all can."""
    n_bad = int((~(np.abs(predicted) <= LARGEST)).sum())
    return f"{n_bad:,} predictions are not finite, or beyond {LARGEST:g}" if n_bad else None


def score_region(
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    counts: NDArray[np.int64],
    totals: NDArray[np.float64],
) -> RegionScores:
    """Score one region.

    Parameters
    ----------
    truth, predicted
        (n, M) log1p(CP10K), n and M of at least 1.
    counts
        (n, M) true counts.
    totals
        (n,) library sizes over all genes.

    Raises
    ------
    ValueError
        Arrays of different shapes, nothing to score, or predictions that are not finite or beyond
        `LARGEST`.
    """
    shape = (len(totals), truth.shape[1])
    if not truth.size or not truth.shape == predicted.shape == counts.shape == shape:
        msg = f"shapes {truth.shape}, {predicted.shape}, {counts.shape}, {totals.shape}"
        raise ValueError(msg)
    if fault := find_overflow(predicted):
        raise ValueError(fault)
    apart = predicted - truth
    by_gene, genes_left_out = _mean_correlation(truth, predicted)
    by_spot, spots_left_out = _mean_correlation(truth.T, predicted.T)
    rates = np.expm1(predicted) * totals[:, None] / 1e4
    return RegionScores(
        mse=float(np.mean(apart**2)),
        mae=float(np.mean(np.abs(apart))),
        pearson_gene=by_gene,
        pearson_spot=by_spot,
        poisson_deviance=_deviance(counts, np.maximum(rates, LEAST_RATE)),
        genes_left_out=genes_left_out,
        spots_left_out=spots_left_out,
        rates_raised=int((rates < LEAST_RATE).sum()),
    )


def _mean_correlation(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float | None, int]:
    """Return the mean correlation of the columns that vary in both, and how many do not."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    sizes = np.sqrt(np.mean(a**2, axis=0)), np.sqrt(np.mean(b**2, axis=0))
    varies = (sizes[0] > _VARIES) & (sizes[1] > _VARIES)
    if not varies.any():
        return None, int(varies.size)
    found = np.mean(a * b, axis=0)[varies] / (sizes[0][varies] * sizes[1][varies])
    return float(found.mean()), int((~varies).sum())


def _deviance(counts: NDArray[np.int64], rates: NDArray[np.float64]) -> float:
    from scipy.special import xlogy

    return float(2 * np.mean(xlogy(counts, counts / rates) - counts + rates))
