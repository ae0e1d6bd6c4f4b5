"""The answer: a grid cell for every spot, and why.

Estimates are rounded where they are made: they stand in files, and the last bits of a fit are
those of the libraries that it was made with.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Grid cell of every spot, and how the layout was chosen. N spots."""

    layout: str
    kind: str
    """``hex``, ``quincunx``, ``square`` or ``irregular``: what the spots lie on."""
    row: NDArray[np.int32]
    """(N,) grid row of each spot from 0, -1 where it was not placed."""
    col: NDArray[np.int32]
    """(N,) grid column."""
    shape: tuple[int, int]
    """(H, W)."""
    pitch: float | None
    """Distance of neighbouring cells along a row, in the unit of the positions."""
    evidence: str
    """Why this layout, in words with numbers."""
    measures: dict[str, float]
    """Numbers behind it: pitch, row_pitch, angle_deg, mirrored, residual (rms, in pitches),
    parity, occupancy, median_window, n_collisions, n_off_grid, n_gap_rows, n_gap_cols,
    confidence (0 to 1); those that apply."""

    @property
    def occupancy(self) -> float:
        """Share of grid cells that hold a spot."""
        placed = self.row >= 0
        cells = self.row[placed].astype(np.int64) * self.shape[1] + self.col[placed]
        return np.unique(cells).size / (self.shape[0] * self.shape[1])


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Integer lattice indices of N spots, in the array convention of their kind.

    ``square``: any (row, col). ``hex`` and ``quincunx``: row + col is even, neighbours along a row
    are two columns apart.
    """

    kind: str
    row: NDArray[np.int64]
    """(N,) 0 where `placed` is False."""
    col: NDArray[np.int64]
    placed: NDArray[np.bool_]
    """(N,) whether a spot has a site."""
    evidence: str
    measures: dict[str, float]


def round_length(value: float) -> float:
    """Return an estimate in the unit of the positions to nine significant digits."""
    return float(f"{value:.8e}")


def round_share(value: float) -> float:
    """Return an estimate in pitches, degrees or shares to nine decimals, never as -0.0."""
    return round(float(value), 9) + 0.0


def round_angle(degrees: float) -> float:
    """Return an angle to nine decimals; -180 degrees are 180."""
    rounded = round_share(degrees)
    return 180.0 if rounded == -180.0 else rounded


def step_along_rows(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    known: NDArray[np.bool_],
    xy: NDArray[np.float64],
) -> float | None:
    """Return the median distance of known spots that are neighbours along a grid row, or None."""
    order = np.flatnonzero(known)
    order = order[np.lexsort((col[order], row[order]))]
    beside = (np.diff(row[order]) == 0) & (np.diff(col[order]) == 1)
    if not beside.any():
        return None
    steps = np.diff(xy[order], axis=0)[beside]
    return round_length(float(np.median(np.hypot(steps[:, 0], steps[:, 1]))))
