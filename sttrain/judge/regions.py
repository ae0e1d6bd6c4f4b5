"""Masked regions: squares of hidden sites, the window around them and the genes to predict.

A region is a function of (seed, slice, window, size, number) and of where the slice has spots, so
every method meets the same ones. Letters: N spots of a slice, P window side, S side of the hidden
square, M genes, H, W grid rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sttrain.embed.expression import expression
from sttrain.errors import BadInputError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice

LEAST_FILL: Final = 0.5
"""A square has to hold this share of the spots that the slice's fullest square holds."""


class TooSmallError(BadInputError):
    """A slice has no room for the regions that are asked for."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One hidden square and everything that may be known to fill it."""

    whole: "WholeSlice"
    values: csr_array
    """(N, G) float32 log1p(CP10K) of all genes that may be asked for."""
    counts: csr_array
    """(N, G) their counts."""
    genes: NDArray[np.int32]
    """(M,) vocabulary indices to predict, ascending."""
    columns: NDArray[np.int64]
    """(M,) their columns in `values`."""
    window: int
    """P."""
    corner: tuple[int, int]
    """First grid row and column of the window; it may begin outside of the grid."""
    hidden: NDArray[np.bool_]
    """(N,) spots that are hidden, all of them inside the window."""
    shown: NDArray[np.bool_]
    """(N,) spots of the window that are not hidden."""

    def values_of(self, spots: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the (n, M) log1p(CP10K) of some spots (N,), in grid order."""
        return np.asarray(self.values[spots][:, self.columns].toarray(), np.float64)

    def counts_of(self, spots: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the (n, M) counts of some spots (N,), in grid order."""
        return np.asarray(self.counts[spots][:, self.columns].toarray(), np.int64)


class RegionSource:
    """Draws the regions of one slice.

    Parameters
    ----------
    whole
        The slice.
    genes
        Vocabulary indices that may be asked for, ascending; all measured by the slice.
    """

    def __init__(self, whole: "WholeSlice", genes: NDArray[np.int32]) -> None:
        self.whole, self.genes = whole, genes
        self.values = expression(whole, genes)
        width = int(whole.genes[-1]) + 1
        stored = (whole.data.astype(np.int64), whole.indices, whole.indptr)
        every = csr_array(stored, shape=(whole.meta.n_spots, width))
        self.counts = csr_array(every[:, genes])
        squares = csr_array(self.values.astype(np.float64) ** 2)
        self.sums, self.squares = self.values.astype(np.float64).sum(axis=0), squares.sum(axis=0)
        H, W = whole.meta.grid
        self.spot = np.full((H, W), -1, np.int64)
        self.spot[whole.rows, whole.cols] = np.arange(whole.meta.n_spots)

    def draw(self, *, window: int, size: int, n_genes: int, seed: int, number: int) -> Region:
        """Draw one region.

        The square is drawn among all that hold at least half of the spots of the fullest one, the
        window among all that hold the square (and lie on the grid, where the grid is larger).
        The genes are the M of the largest variance over the slice's spots outside of the square.

        Raises
        ------
        TooSmallError
            The slice is smaller than the square, or nothing is left outside of it in the window.
        """
        H, W = self.whole.meta.grid
        if min(H, W) < size:
            raise self._refused(f"a grid of {H} x {W} sites, hidden squares of {size}", "--size")
        row, col = _choose(self._squares(size), self._draws("square", window, size, seed, number))
        draws = self._draws("window", window, size, seed, number)
        corner = (
            _corner(row, size, window, H, draws[0]), _corner(col, size, window, W, draws[1])
        )  # fmt: skip
        hidden = self._inside(row, col, size)
        shown = self._inside(*corner, window) & ~hidden
        if not shown.any():
            raise self._refused("no spot is left around the hidden square", "--window")
        columns = self._most_variable(hidden, n_genes)
        return Region(
            whole=self.whole,
            values=self.values,
            counts=self.counts,
            genes=self.genes[columns],
            columns=columns,
            window=window,
            corner=corner,
            hidden=hidden,
            shown=shown,
        )

    def _squares(self, size: int) -> NDArray[np.int64]:
        """Return the (n, 2) first rows and columns of the squares that are full enough."""
        total = np.zeros(tuple(side + 1 for side in self.spot.shape), np.int64)
        total[1:, 1:] = (self.spot >= 0).cumsum(axis=0).cumsum(axis=1)
        filled = (
            total[size:, size:] - total[:-size, size:] - total[size:, :-size]
            + total[:-size, :-size]
        )  # fmt: skip
        # The whole slice must not be hidden.
        allowed = (filled >= LEAST_FILL * filled.max()) & (filled < self.whole.meta.n_spots)
        found = np.argwhere(allowed)
        if not found.size:
            raise self._refused(f"squares of {size} sites leave nothing of it", "--size")
        return found

    def _inside(self, row: int, col: int, side: int) -> NDArray[np.bool_]:
        rows, cols = self.whole.rows, self.whole.cols
        return (rows >= row) & (rows < row + side) & (cols >= col) & (cols < col + side)

    def _most_variable(self, hidden: NDArray[np.bool_], n_genes: int) -> NDArray[np.int64]:
        """Return the columns of the M most variable genes outside of the square, ascending.

        Population variance of log1p(CP10K); ties go to the vocabulary's order.
        """
        inside = self.values[hidden].astype(np.float64)
        n = self.whole.meta.n_spots - int(hidden.sum())
        mean = (self.sums - inside.sum(axis=0)) / n
        variance = (self.squares - csr_array(inside**2).sum(axis=0)) / n - mean**2
        # Sums differ in their last digits by the order of summation: what agrees to 1e-9 ties.
        order = np.argsort(-np.round(variance, 9), kind="stable")[:n_genes]
        return np.sort(order)

    def _draws(self, what: str, *numbers: int) -> Sequence[float]:
        """Return two numbers in [0, 1) that depend on the slice and these numbers alone."""
        text = f"sttrain/region/{what}/v1\0{self.whole.meta.slice}\0" + "\0".join(map(str, numbers))
        digest = sha256(text.encode()).digest()
        return [int.from_bytes(digest[i : i + 6], "big") / 2**48 for i in (0, 6)]

    def _refused(self, what: str, flag: str) -> TooSmallError:
        fix = f"choose smaller numbers for {flag}, or leave the slice out (--slice)"
        subject = f"slice '{self.whole.meta.slice}'"
        return TooSmallError(Problem(code="V23", subject=subject, what=what, fix=fix))


def _choose(found: NDArray[np.int64], draws: Sequence[float]) -> tuple[int, int]:
    row, col = found[int(draws[0] * len(found))].tolist()
    return row, col


def _corner(start: int, size: int, window: int, side: int, draw: float) -> int:
    """Return where a window begins that holds [start, start + size), on the grid where it fits."""
    low, high = start + size - window, start
    if window <= side:
        low, high = max(low, 0), min(high, side - window)
    else:  # the window is larger than the grid and holds all of it
        low, high = side - window, 0
    return low + int(draw * (high - low + 1))
