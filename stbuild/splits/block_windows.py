"""Training windows of a slice that is parted by spatial blocks: each lies inside one split."""

import math

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardConfig
from stbuild.splits.masks import block_split, window_origins
from stbuild.windows import Origins, Window, draw_window, window_fill


def plan_blocks(
    occupied: NDArray[np.bool_], counts_digest: str, config: ShardConfig, name: str
) -> list[Window]:
    """Draw the windows of every split of a slice, as :func:`stbuild.windows.plan_training` does.

    Origins are uniform over those whose window lies in blocks of the split; a window must hold
    `min_fill` of what the best of them holds. Two splits never share a cell, and lie at least a
    window apart.

    Parameters
    ----------
    occupied
        (H, W) mask of observed cells.
    counts_digest
        Digest of the slice, which keys blocks and draws.
    config
        Shares of the splits, window, seed.
    name
        Id of the slice, for messages.

    Returns
    -------
    list of Window
        ``config.n_per_slice`` windows in the order of their numbers, splits by name.

    Raises
    ------
    BadInputError
        The slice is too small for blocks and a buffer.
    """
    fractions = config.fractions()
    found = block_split(occupied, config.window, fractions, config.seed, counts_digest, name=name)
    fill = window_fill(occupied, config.window)
    windows: list[Window] = []
    for split, n_windows in share_windows(config.n_per_slice or 0, fractions).items():
        allowed = window_origins(found.masks[split], occupied, config.window)
        origins = Origins(np.where(allowed, fill, -1), config.min_fill)
        numbers = range(len(windows), len(windows) + n_windows)
        windows += [
            draw_window(origins, counts_digest, config, number, split=split) for number in numbers
        ]
    return windows


def share_windows(n_windows: int, fractions: dict[str, float]) -> dict[str, int]:
    """Share the windows of a slice between splits by largest remainder; each gets at least one.

    Parameters
    ----------
    n_windows
        Windows of the slice; at least one a split.
    fractions
        Share of each split, together 1.
    """
    listed = sorted(fractions)
    exact = {name: fractions[name] * (n_windows - len(listed)) for name in listed}
    shares = {name: 1 + math.floor(exact[name]) for name in listed}
    left = n_windows - sum(shares.values())
    by_rest = sorted(listed, key=lambda name: (math.floor(exact[name]) - exact[name], name))
    for name in by_rest[:left]:
        shares[name] += 1
    return shares
