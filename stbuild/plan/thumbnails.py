"""What a page shows of a slice: its arrays on the grid, small enough to travel between workers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.grid.grids import Grid


@dataclass(frozen=True, kw_only=True)
class SlicePicture:
    """The arrays behind the pictures of one slice."""

    totals: NDArray[np.uint32]
    """(H, W) library sizes, 0 = no spot."""
    labels: NDArray[np.int16]
    """(H, W) label codes, -1 = none."""
    label_names: tuple[str, ...]
    genes_per_spot: NDArray[np.int32]
    """(N,) genes with at least one count, in grid order."""
    xy: NDArray[np.float64]
    """(N, 2) positions in grid order."""
    unit: str


def picture_of(grid: Grid) -> SlicePicture:
    """Return what a page shows of a grid."""
    totals = np.zeros(grid.meta.shape, np.uint32)
    totals[grid.rows, grid.cols] = grid.totals
    labels = np.full(grid.meta.shape, -1, np.int16)
    labels[grid.rows, grid.cols] = grid.labels
    return SlicePicture(
        totals=totals,
        labels=labels,
        label_names=grid.meta.label_names,
        genes_per_spot=np.diff(grid.counts.indptr).astype(np.int32),
        xy=grid.xy,
        unit=grid.meta.unit,
    )
