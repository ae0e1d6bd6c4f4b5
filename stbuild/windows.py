"""Where patches are cropped: random training windows and covering evaluation windows.

Pure functions of the occupied cells and the configuration (Eq. 6 and its fill rule).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardConfig
from stbuild.draws import draw_index, keyed_stream


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of P x P cells; it may reach past a grid smaller than P."""

    number: int
    row: int
    col: int
    observed: int
    """Observed sites inside."""
    tries: int = 1
    """Origins that were tried for it."""
    split: str | None = None
    """Split of it alone, where a slice is parted by blocks."""


def window_fill(occupied: NDArray[np.bool_], P: int) -> NDArray[np.int64]:
    """Return the observed sites of every window origin.

    Parameters
    ----------
    occupied
        (H, W) mask of observed cells.
    P
        Window side.

    Returns
    -------
    numpy.ndarray
        (max(H - P, 0) + 1, max(W - P, 0) + 1) counts.
    """
    H, W = max(occupied.shape[0], P), max(occupied.shape[1], P)
    sums = np.zeros((H + 1, W + 1), np.int64)
    sums[1 : occupied.shape[0] + 1, 1 : occupied.shape[1] + 1] = occupied
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    fill: NDArray[np.int64] = sums[P:, P:] - sums[:-P, P:] - sums[P:, :-P] + sums[:-P, :-P]
    return fill


def plan_training(
    occupied: NDArray[np.bool_], counts_digest: str, config: ShardConfig
) -> list[Window]:
    """Draw the training windows of a slice.

    Origins are uniform over all positions (Eq. 6). A window must hold `min_fill` of what the
    best-filled window of the slice holds; after `tries` origins the best-filled of them is taken.

    Returns
    -------
    list of Window
        ``config.n_per_slice`` windows in the order of their numbers; independent of each other.
    """
    fill = window_fill(occupied, config.window)
    least = max(1, int(np.ceil(config.min_fill * int(fill.max()))))
    return [
        draw_window(fill, least, counts_digest, config, number)
        for number in range(config.n_per_slice or 0)
    ]


def draw_window(
    fill: NDArray[np.int64],
    least: int,
    counts_digest: str,
    config: ShardConfig,
    number: int,
    *,
    split: str | None = None,
) -> Window:
    """Draw one training window.

    Parameters
    ----------
    fill
        Observed sites of every origin; -1 where no window of `split` may start.
    least
        Observed sites that it must hold.
    counts_digest
        Digest of the slice, which keys the draw.
    config
        Seed and number of tries.
    number
        Number of the window within its slice.
    split
        Given, only origins that `fill` allows are drawn; without, all of them are equally likely.
    """
    allowed = None if split is None else np.flatnonzero(fill > 0)
    stream = keyed_stream("window", config.seed, counts_digest, number)
    best, tries = (-1, 0, 0), 0
    while best[0] < least and tries < config.tries:
        if allowed is None:
            row, col = draw_index(stream, fill.shape[0]), draw_index(stream, fill.shape[1])
        else:
            row, col = divmod(int(allowed[draw_index(stream, allowed.size)]), fill.shape[1])
        # Of equally filled origins the first one drawn stays.
        if int(fill[row, col]) > best[0]:
            best = (int(fill[row, col]), row, col)
        tries += 1
    observed, row, col = best
    return Window(number=number, row=row, col=col, observed=observed, tries=tries, split=split)


def plan_cover(occupied: NDArray[np.bool_], config: ShardConfig) -> list[Window]:
    """Lay windows at a stride so that every observed cell lies in at least one.

    The last row and column of windows are moved in, to end with the grid; windows without any
    observed site are left out.
    """
    stride = config.cover or config.window
    fill = window_fill(occupied, config.window)
    rows = sorted({*range(0, fill.shape[0], stride), fill.shape[0] - 1})
    cols = sorted({*range(0, fill.shape[1], stride), fill.shape[1] - 1})
    origins = [(row, col) for row in rows for col in cols if fill[row, col]]
    return [
        Window(number=number, row=row, col=col, observed=int(fill[row, col]))
        for number, (row, col) in enumerate(origins)
    ]
