"""Per-gene variance in windows, in exact integers.

Eq. 7's variance is that of log1p(CP10K), taken as q = round(2^16 log1p(10^4 count / total)).
Sums of q and q^2 are 64-bit integers, so neither order nor threads nor SIMD can change a choice.
Windows that start in the same row share a strip whose sums over columns are prefix sums.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.grids import Region
from stbuild.windows import Window

SCALE = 2.0**16
"""Fixed-point scale of q; a variance in q^2 divided by its square is on the log1p scale."""


class SliceMoments:
    """Quantised values of a region and their sums over windows inside it.

    Parameters
    ----------
    region
        Observed spots of a part of a slice, or of all of it.
    counts
        (n, G) their counts, cut to the genes of the vocabulary.
    """

    def __init__(self, region: Region, counts: csr_array) -> None:
        per_spot = np.diff(counts.indptr)
        totals = np.repeat(region.totals.astype(np.float64), per_spot)
        self.n_genes = int(counts.shape[1])
        self.box = region.box
        self.values = np.rint(SCALE * np.log1p(1e4 * counts.data / totals)).astype(np.int64)
        # Flat (column, gene) position within a strip; each position occurs once per grid row.
        cols = np.repeat(region.cols.astype(np.int64) * self.n_genes, per_spot)
        self.flat = cols + counts.indices
        starts = np.searchsorted(region.rows, np.arange(self.box.shape[0] + 1))
        self.row_starts = counts.indptr[starts]

    def whole(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sums of q and q^2 over all spots of the region, both (G,)."""
        gene = self.flat % self.n_genes
        # Float weights are exact here: sums of q stay below 2^53 for any slice up to 2^33 spots.
        first = np.bincount(gene, self.values, self.n_genes).astype(np.int64)
        second = np.zeros(self.n_genes, np.int64)
        np.add.at(second, gene, self.values**2)
        return first, second

    def windows(
        self, windows: Sequence[Window], P: int
    ) -> Iterator[tuple[Window, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each window with its sums of q and q^2, both (G,), strip by strip.

        The order is by row, then by number; sums of an unobserved site are zero.
        """
        (H, W), (top_row, left_col) = self.box.shape, (self.box.top, self.box.left)
        first = np.zeros((W, self.n_genes), np.int64)
        second = np.zeros((W, self.n_genes), np.int64)
        prefix = np.zeros((W + 1, self.n_genes), np.int64)
        prefix2 = np.zeros((W + 1, self.n_genes), np.int64)
        top, bottom = 0, 0  # rows [top, bottom) are in the sums
        by_row = sorted(windows, key=lambda window: (window.row, window.number))
        current = None
        for window in by_row:
            row, col = window.row - top_row, window.col - left_col
            if row != current:
                current = row
                while top < min(row, H):
                    if top < bottom:
                        self._add(first, second, top, -1)
                    top += 1
                bottom = max(bottom, top)
                while bottom < min(row + P, H):
                    self._add(first, second, bottom, 1)
                    bottom += 1
                np.cumsum(first, axis=0, out=prefix[1:])
                np.cumsum(second, axis=0, out=prefix2[1:])
            left, right = col, min(col + P, W)
            yield window, prefix[right] - prefix[left], prefix2[right] - prefix2[left]

    def _add(
        self, first: NDArray[np.int64], second: NDArray[np.int64], row: int, sign: int
    ) -> None:
        part = np.s_[self.row_starts[row] : self.row_starts[row + 1]]
        where, values = self.flat[part], self.values[part]
        first.reshape(-1)[where] += sign * values
        second.reshape(-1)[where] += sign * values * values


def variance_weights(
    first: NDArray[np.int64], second: NDArray[np.int64], n_sites: int, epsilon: float
) -> NDArray[np.float64]:
    """Return Eq. 7's weights, variance plus epsilon, on the log1p scale.

    Parameters
    ----------
    first, second
        (G,) sums of q and q^2.
    n_sites
        Sites that the variance is taken over (population variance).
    epsilon
        Smoothing.

    Returns
    -------
    numpy.ndarray
        (G,) float64; the numerator n sum(q^2) - sum(q)^2 is exact, and what follows is one
        division and one addition, which every IEEE machine rounds alike.
    """
    exact = n_sites * second - first * first
    return exact / (float(n_sites) ** 2 * SCALE**2) + epsilon
