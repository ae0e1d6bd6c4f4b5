"""What every evaluation split shares: one code per spot, ids to draw by, seeds.

Codes: ``T`` train, ``E`` test, ``b`` dropped by a buffer, ``x`` labelled but not scored, ``.``
unlabelled. No rule stands here.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.draws import hashed_order
from stbuild.grid.grids import Grid

N_SEEDS: Final = 10
TRAIN_SHARE: Final = 0.2
MIN_CLASS: Final = 5
"""A class with fewer labelled spots blocks no split."""


def blank_codes(grid: Grid) -> NDArray[np.str_]:
    """Return (N,) codes of a slice in which no spot takes part."""
    return np.full(len(grid.barcodes), ".", "<U1")


def shuffle_spots(
    task: str, seed: int, grid: Grid, members: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return spots in the order of their hashed barcodes: input order leaves no trace.

    Parameters
    ----------
    task
        Name that keys the draw.
    seed
        Seed of the split.
    grid
        The slice.
    members
        (n,) numbers of the spots.
    """
    ids = [f"{grid.meta.slug}\0{grid.barcodes[i]}" for i in members.tolist()]
    return members[hashed_order(task, seed, ids)]


def is_labelled(grid: Grid) -> NDArray[np.bool_]:
    """Return the (N,) mask of labelled spots."""
    return np.asarray(grid.labels >= 0)
