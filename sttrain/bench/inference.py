"""What differences between methods support: paired over donors or slices, never over spots.

Spots of a slice are no independent samples of tissue; donors are, and slices where no donor is
known. Letters: U units (donors or slices), B resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.05
"""Rate of false wins over all comparisons of a family."""
RESAMPLES: Final = 10_000
EXACT: Final = 13
"""Up to so many units, every one of the 2^U changes of sign is looked at."""
FEWEST: Final = 6
"""Units that an interval needs. That of fewer is the range of what was seen, whatever the level:
U differences have the mean between them with a probability of 1 - 2 / 2^U at most, 94 % of five."""
_SEED: Final = 0
_TIE: Final = 1e-12

Values = Mapping[str, float]
"""Value of each unit."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean over units of (method - reference)."""

    mean: float
    low: float | None
    high: float | None
    """Ends of the 95 % confidence interval; none below `FEWEST` units."""
    p: float | None
    """Two-sided, of the sign-flip test; none of a single unit."""
    n_units: int


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The ranks that a method may have: one number only where the data supports it."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def compare(method: Values, reference: Values) -> Comparison | None:
    """Compare two methods on the units that both have; none where they share no unit.

    The test changes the signs of the differences at random: exact, whatever their distribution,
    if the two methods could change places. U units cannot give less than 2 / 2^U. The interval is
    a percentile bootstrap over units, its percentiles moved outward to t quantiles times
    sqrt(U / (U - 1)), as percentiles alone are too narrow for few units (Hesterberg, The American
    Statistician 2015, "expanded percentile interval"); there is none below `FEWEST` units.
    """
    units = sorted(set(method) & set(reference))
    if not units:
        return None
    differences = np.asarray([method[unit] - reference[unit] for unit in units])
    n = len(units)
    low, high = bootstrap_interval(differences) if n >= FEWEST else (None, None)
    return Comparison(
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=sign_flip(differences) if n > 1 else None,
        n_units=n,
    )


def sign_flip(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p value of the mean of (U,) differences under changes of sign."""
    n = differences.size
    if n <= EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        drawn = np.random.default_rng([_SEED, n]).integers(0, 2, (RESAMPLES, n))
        # What was seen is one of the changes: the rate of false wins then stays below the level.
        signs = np.concatenate([np.ones((1, n), np.int64), 1 - 2 * drawn])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= np.abs(differences.sum()) - _TIE))


def bootstrap_interval(
    differences: NDArray[np.float64], level: float = LEVEL
) -> tuple[float, float]:
    """Return the expanded percentile interval of the mean of (U,) differences, U >= `FEWEST`."""
    from scipy.stats import norm, t

    n = differences.size
    chosen = np.random.default_rng([_SEED, n, 1]).integers(0, n, (RESAMPLES, n))
    means = differences[chosen].mean(axis=1)
    tail = float(norm.cdf(np.sqrt(n / (n - 1)) * t.ppf(level / 2, n - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for the family that they are (Holm 1979); none stays none."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        adjusted[i] = highest
    return adjusted


def rank_methods(
    values: Mapping[str, Values], *, lower_is_better: bool = False, level: float = LEVEL
) -> dict[str, Rank]:
    """Return the ranks that each method may have.

    All pairs are compared; the family of Holm's correction is all of them. A method stands behind
    those that are better beyond the level and before those that are worse; the others tie.

    Parameters
    ----------
    values
        Value of every unit by method.
    lower_is_better
        Whether 0 is the best value.
    level
        Rate at which any false win may occur.
    """
    pairs = list(combinations(values, 2))
    found = [compare(values[a], values[b]) for a, b in pairs]
    adjusted = holm([c.p if c else None for c in found])
    behind = dict.fromkeys(values, 0)
    before = dict.fromkeys(values, 0)
    for (a, b), comparison, p in zip(pairs, found, adjusted, strict=True):
        if comparison is None or p is None or p > level:
            continue
        better, worse = (a, b) if (comparison.mean > 0) != lower_is_better else (b, a)
        behind[worse] += 1
        before[better] += 1
    return {name: Rank(first=1 + behind[name], last=len(values) - before[name]) for name in values}
