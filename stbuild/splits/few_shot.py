"""``few-shot-n``: n labelled spots of each class and slice train, all others test.

The same order of spots serves every n, so what trains in ``few-shot-1`` trains in ``few-shot-5``.
"""

from typing import Final

import numpy as np

from stbuild.grid.grids import Grid
from stbuild.splits.codes import blank_codes, is_labelled, shuffle_spots

SHOTS: Final = (1, 5, 20)


def few_shot_rule(shots: int) -> str:
    """Return the rule of ``few-shot-<shots>`` in words."""
    return (
        f"Within each slice and class, {shots} labelled spots drawn at random train, but at most "
        "half of the class (rounded down), and all others test; fewer shots are a subset of more."
    )


def assign_few_shot(grid: Grid, seed: int, shots: int) -> str:
    """Return one code per spot.

    Parameters
    ----------
    grid
        The slice.
    seed
        Seed of the split.
    shots
        Training spots per class; at most half of a class train, so that each is also tested.
    """
    codes = blank_codes(grid)
    for label in np.unique(grid.labels[is_labelled(grid)]):
        order = shuffle_spots("few-shot", seed, grid, np.flatnonzero(grid.labels == label))
        n_train = min(shots, order.size // 2)
        codes[order[:n_train]] = "T"
        codes[order[n_train:]] = "E"
    return "".join(codes)
