"""Square bins for platforms without a lattice: many cells may share one, and that is no error."""

import numpy as np
from numpy.typing import NDArray

from stbuild.lattices.lattice import round_length


def mean_spacing(xy: NDArray[np.float64]) -> float:
    """Return sqrt(area of the convex hull / N): the side of a bin that holds one spot on average.

    Points on a line, or fewer than three, have no hull: then the range over N is taken, and 1
    where there is none.
    """
    from scipy.spatial import ConvexHull, QhullError  # late: slow to import, seldom needed

    try:
        area = float(ConvexHull(xy).volume)  # in two dimensions the volume is the area
    except (QhullError, ValueError):
        area = 0.0
    if area > 0:
        return round_length(float(np.sqrt(area / len(xy))))
    extent = float(np.ptp(xy, axis=0).max()) if len(xy) else 0.0
    return extent / max(1, len(xy) - 1) or 1.0


def count_bins(xy: NDArray[np.float64], side: float) -> tuple[float, float]:
    """Return the rows and columns that bins of `side` would make; maybe more than 64 bits hold."""
    width, height = (float(extent) for extent in np.ptp(xy, axis=0))
    return height / side // 1 + 1, width / side // 1 + 1


def bin_positions(
    xy: NDArray[np.float64], side: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, col) of square bins of `side`, the first at the smallest coordinates."""
    index = np.floor((xy - xy.min(axis=0)) / side).astype(np.int64)
    return index[:, 1], index[:, 0]


def suggest_side(xy: NDArray[np.float64]) -> float:
    """Return the mean spacing to two digits, for advice."""
    side = mean_spacing(xy)
    digits = 1 - int(np.floor(np.log10(side)))
    return round(side, digits)
