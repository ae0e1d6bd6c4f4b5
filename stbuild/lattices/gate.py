"""The occupancy gate: grids so empty that patches of them hold nothing are refused.

What counts is how full the windows are. A thin tissue on the right lattice has emptyish windows
too, but its spots have neighbours; so a grid is refused only if its spots stand alone as well.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.windows import window_fill

WINDOW: Final = 16
LEAST_SITES: Final = 64
"""Of the 256 sites of the median 16 x 16 window that holds any."""
LEAST_NEIGHBOURS: Final = 3.0
"""Mean filled sites of the 3 x 3 around a spot, itself included: 9 full, 5 a checkerboard."""
SMALL_GRID: Final = 1024
"""Grids of at most so many cells are never refused for their occupancy."""
MOST_CELLS: Final = 2**27
"""Grids beyond it are no compact layout of anything: a Visium HD slide has 11 million."""


def measure_filling(
    row: NDArray[np.int64], col: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[float, float]:
    """Return the median filled sites of a 16 x 16 window, and the mean of a 3 x 3 around a spot.

    Parameters
    ----------
    row, col
        (N,) cells of the placed spots.
    shape
        (H, W), at most `MOST_CELLS` cells.
    """
    occupied = np.zeros(shape, bool)
    occupied[row, col] = True
    fill = window_fill(occupied, WINDOW)
    around = window_fill(np.pad(occupied, 1), 3)
    return float(np.median(fill[fill > 0])), float(around[occupied].mean())
