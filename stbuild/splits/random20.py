"""``paper20``: the paper's random stratified 20/80 split of the spots of each slice."""

from typing import Final

import numpy as np

from stbuild.grid.grids import Grid
from stbuild.splits.codes import MIN_CLASS, TRAIN_SHARE, blank_codes, is_labelled, shuffle_spots

PAPER_RULE: Final = (
    "Within each slice and class, a random 20 % of the labelled spots (rounded half up, at least "
    "one of a class with 5 or more) train and all others test."
)


def assign_paper20(grid: Grid, seed: int) -> str:
    """Return one code per spot: the paper's random stratified 20/80 split."""
    codes = blank_codes(grid)
    for label in np.unique(grid.labels[is_labelled(grid)]):
        order = shuffle_spots("paper20", seed, grid, np.flatnonzero(grid.labels == label))
        n_train = int(TRAIN_SHARE * order.size + 0.5)
        if order.size >= MIN_CLASS:
            n_train = max(1, n_train)
        codes[order[:n_train]] = "T"
        codes[order[n_train:]] = "E"
    return "".join(codes)
