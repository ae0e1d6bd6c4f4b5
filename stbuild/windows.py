"""Where patches are cropped: random training windows and covering evaluation windows.

Pure functions of the occupied cells and the configuration (Eq. 6 and its fill rule).
"""

import math
from dataclasses import dataclass
from functools import cached_property

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
    """Origins that were drawn for it; one more than `tries` of the configuration where none of
    those held enough."""
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


@dataclass(frozen=True)
class Origins:
    """Where windows of a slice, or of one split of it, may start."""

    fill: NDArray[np.int64]
    """Observed sites of every origin; -1 where no window of the split may start."""
    min_fill: float
    """Least share of the best-filled window that a window must hold."""

    @cached_property
    def least(self) -> int:
        """Observed sites that a window must hold; the best-filled one does."""
        return max(1, math.ceil(self.min_fill * int(self.fill.max())))

    @cached_property
    def observed(self) -> NDArray[np.int64]:
        """Flat numbers of the origins with any observed site."""
        return np.flatnonzero(self.fill > 0)

    @cached_property
    def filled(self) -> NDArray[np.int64]:
        """Flat numbers of the origins whose window holds enough."""
        return np.flatnonzero(self.fill >= self.least)


def plan_training(
    occupied: NDArray[np.bool_], counts_digest: str, config: ShardConfig
) -> list[Window]:
    """Draw the training windows of a slice.

    Origins are uniform over all positions (Eq. 6). A window must hold `min_fill` of what the
    best-filled window of the slice holds; after `tries` origins that do not, one is drawn among
    those that do.

    Returns
    -------
    list of Window
        ``config.n_per_slice`` windows in the order of their numbers; independent of each other.
    """
    origins = Origins(window_fill(occupied, config.window), config.min_fill)
    return [
        draw_window(origins, counts_digest, config, number)
        for number in range(config.n_per_slice or 0)
    ]


def draw_window(
    origins: Origins,
    counts_digest: str,
    config: ShardConfig,
    number: int,
    *,
    split: str | None = None,
) -> Window:
    """Draw one training window, which holds enough.

    Parameters
    ----------
    origins
        Where it may start.
    counts_digest
        Digest of the slice, which keys the draw.
    config
        Seed and number of tries.
    number
        Number of the window within its slice.
    split
        Given, only origins with an observed site are tried; without, all of them alike.
    """
    fill, tried = origins.fill, None if split is None else origins.observed
    stream = keyed_stream("window", config.seed, counts_digest, number)
    for tries in range(1, config.tries + 2):
        row, col = _draw_origin(
            stream, fill.shape, tried if tries <= config.tries else origins.filled
        )
        if fill[row, col] >= origins.least:
            break
    observed = int(fill[row, col])
    return Window(number=number, row=row, col=col, observed=observed, tries=tries, split=split)


def _draw_origin(
    stream: np.random.Philox, shape: tuple[int, ...], listed: NDArray[np.int64] | None
) -> tuple[int, int]:
    """Draw a row and a column: any, or those of one of the flat numbers that are listed."""
    if listed is None:
        return draw_index(stream, shape[0]), draw_index(stream, shape[1])
    return divmod(int(listed[draw_index(stream, listed.size)]), shape[1])


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
