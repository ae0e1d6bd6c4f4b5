"""Per-gene variance in windows, in exact integers.

Eq. 7's variance is that of log1p(CP10K), taken as q = round(2^16 log1p(10^4 count / total)).
Sums of q and q^2 over a window are whole numbers below 2^53, so float64 holds them exactly, and
neither order nor threads nor SIMD nor the linear algebra library can change a choice. Over a whole
slice they are 64-bit integers, and Python's where 64 bits could wrap.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.corpus.names import MAX_WINDOW
from stbuild.windows import Window

SCALE = 2.0**16
"""Fixed-point scale of q; a variance in q^2 divided by its square is on the log1p scale."""
_GENES_AT_ONCE: Final = 512
"""Genes that are summed together: what a row of 64 sites needs of them stays in a core's cache."""
_ORIGINS_AT_ONCE: Final = 16
"""Windows that are summed by one product: 5 MB of sums for 20,000 genes."""
_TABLE: Final = 256
"""Counts up to here are looked up in a table of q a site; larger ones are rare."""
SUMMED_AT_ONCE: Final = 2**24
"""Spots whose sums 64 bits hold for sure: no count exceeds its total, so q is below 2^19.3."""


def quantise(counts: NDArray[Any], totals: NDArray[Any]) -> NDArray[np.float64]:
    """Return q of counts at sites with these library sizes, which must not be 0."""
    scaled = 1e4 * counts / totals
    return np.asarray(np.rint(SCALE * np.log1p(scaled)), np.float64)


def slice_moments(
    counts: csr_array, totals: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of q and q^2 over the spots of a slice or of a block of it, both (G,).

    Parameters
    ----------
    counts
        (n, G) counts of at most `SUMMED_AT_ONCE` spots.
    totals
        (n,) library sizes.
    """
    n_genes = int(counts.shape[1])
    per_spot = np.repeat(totals.astype(np.float64), np.diff(counts.indptr))
    values = quantise(counts.data, per_spot).astype(np.int64)
    # Float weights are exact here: sums of q stay below 2^53 for up to 2^33 spots.
    first = np.bincount(counts.indices, values, n_genes).astype(np.int64)
    second = np.zeros(n_genes, np.int64)
    np.add.at(second, counts.indices, values**2)
    return first, second


class WindowMoments:
    """Sums of q and q^2 over windows of a dense part of a slice.

    Rows are added to and taken from the sums over P rows (a strip) as the windows go down; the
    windows of one strip are summed by a matrix product with their columns. A window of up to
    2^13 sites cannot leave what float64 holds exactly.

    Parameters
    ----------
    dense
        (H, G, W) counts, 0 where nothing was observed.
    totals
        (H, W) library sizes, 0 = unobserved.
    """

    def __init__(self, dense: NDArray[Any], totals: NDArray[np.uint32]) -> None:
        self._dense, self._totals = dense, totals

    def origins(
        self, windows: Sequence[Window], P: int, top: int = 0, left: int = 0
    ) -> Iterator[tuple[list[Window], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the windows of each origin with their sums of q and q^2, both (G,).

        The order is by row, column and number; sums of an unobserved site are zero.

        Parameters
        ----------
        windows
            Windows whose cells lie in this part.
        P
            Their side.
        top, left
            First row and column of this part.
        """
        (_, G, W), (first_row, last_row) = self._dense.shape, (0, 0)
        # Blocks of genes that lie together: sums at a stride take four times as long.
        sums = [np.zeros((2, min(_GENES_AT_ONCE, G - g), W)) for g in range(0, G, _GENES_AT_ONCE)]
        by_row = sorted(windows, key=lambda window: (window.row, window.col, window.number))
        for row, strip in groupby(by_row, key=lambda window: window.row - top):
            for old in range(first_row, min(row, last_row)):
                self._add_row(sums, old, -1)
            for new in range(max(last_row, row), row + P):
                self._add_row(sums, new, 1)
            first_row, last_row = row, row + P
            places = [list(same) for _, same in groupby(strip, key=lambda window: window.col)]
            for i in range(0, len(places), _ORIGINS_AT_ONCE):
                some = places[i : i + _ORIGINS_AT_ONCE]
                found = _sum_columns(sums, [same[0].col - left for same in some], P)
                yield from zip(some, found[0], found[1], strict=True)

    def _add_row(self, sums: list[NDArray[np.float64]], row: int, sign: int) -> None:
        """Add one row of cells to the (2, genes, W) sums of q and q^2, or take it from them."""
        cols = np.flatnonzero(self._totals[row])
        if not cols.size:
            return
        cells = np.s_[cols[0] : cols[-1] + 1]
        totals = np.maximum(self._totals[row, cells], 1)
        table = quantise(np.arange(_TABLE), totals[:, None])
        starts = np.arange(totals.size) * _TABLE
        add = np.add if sign > 0 else np.subtract
        for number, block in enumerate(sums):
            start = number * _GENES_AT_ONCE
            counts = self._dense[row, start : start + block.shape[1], cells]
            if int(counts.max(initial=0)) < _TABLE:
                q = table.take(counts + starts)
            else:
                q = quantise(counts, totals)
            first, second = block[0, :, cells], block[1, :, cells]
            add(first, q, out=first)
            add(second, np.square(q, out=q), out=second)


def _sum_columns(
    sums: Sequence[NDArray[np.float64]], cols: Sequence[int], P: int
) -> NDArray[np.int64]:
    """Return the (2, n, G) sums of q and q^2 over P columns of a strip, from each of n columns."""
    W, n = sums[0].shape[2] if sums else 0, len(cols)
    inside = np.zeros((n, W))
    for i, col in enumerate(cols):
        inside[i, col : col + P] = 1
    found = np.empty((2, n, sum(block.shape[1] for block in sums)), np.int64)
    for number, block in enumerate(sums):
        genes = np.s_[number * _GENES_AT_ONCE : number * _GENES_AT_ONCE + block.shape[1]]
        found[:, :, genes] = inside @ block.transpose(0, 2, 1)
    return found


def variance_weights(
    first: NDArray[Any], second: NDArray[Any], n_sites: int, epsilon: float
) -> NDArray[np.float64]:
    """Return Eq. 7's weights, variance plus epsilon, on the log1p scale.

    Parameters
    ----------
    first, second
        (G,) sums of q and q^2: int64, or Python integers.
    n_sites
        Sites that the variance is taken over (population variance).
    epsilon
        Smoothing.

    Returns
    -------
    numpy.ndarray
        (G,) float64; the numerator n sum(q^2) - sum(q)^2 is exact, and what follows is its
        rounding, one division and one addition, which every IEEE machine does alike.
    """
    return _numerators(first, second, n_sites) / (float(n_sites) ** 2 * SCALE**2) + epsilon


def _numerators(first: NDArray[Any], second: NDArray[Any], n_sites: int) -> NDArray[np.float64]:
    """Return n sum(q^2) - sum(q)^2 of each gene, as the nearest float64."""
    if n_sites <= MAX_WINDOW**2:  # sum(q)^2 <= n sum(q^2) < 2^63, in any window
        return np.asarray(n_sites * second - first * first, np.float64)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return np.asarray([float(n_sites * b - a * a) for a, b in pairs], np.float64)
