"""Spatial blocks of one slice for train, val, test, with a buffer as wide as a window between.

Pure functions of the occupied cells. Cutting the windows is :mod:`stbuild.windows`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.errors import BadInputError, Problem
from stbuild.draws import hashed_order
from stbuild.windows import window_fill

_DRAWS: Final = 64
"""Draws of blocks that are tried; the best of them is kept."""


@dataclass(frozen=True, kw_only=True)
class BlockMasks:
    """Which cells of a slice belong to which split."""

    masks: Mapping[str, NDArray[np.bool_]]
    """(H, W) mask per split, disjoint, with at least `window` cells between any two of them."""
    window: int
    """Window side that the buffer is made for."""
    observed: Mapping[str, int]
    """Observed cells per split."""
    dropped: int
    """Observed cells in the buffer: they are in no split."""


def block_split(
    occupied: NDArray[np.bool_],
    window: int,
    fractions: Mapping[str, float],
    seed: int,
    content: str,
    block: int | None = None,
    *,
    name: str = "",
) -> BlockMasks:
    """Assign square blocks of a slice to splits and cut a buffer between them.

    Blocks are dealt in the order of their hash to the split that lacks most; a cell that lies
    within `window` rows and columns of a smaller split is given up by the larger one. Of 64
    deals the one is kept whose splits, the buffer cut, come nearest to the fractions.

    Parameters
    ----------
    occupied
        (H, W) mask of observed cells.
    window
        Window side; the buffer is as wide.
    fractions
        Wanted share of the observed cells of each split.
    seed
        Seed of the deal.
    content
        Digest of the slice, which keys the draw.
    block
        Side of a block; twice the window where it is None.
    name
        Id of the slice, for messages.

    Raises
    ------
    BadInputError
        No deal leaves every split room for a window.
    """
    side = block or 2 * window
    rows, cols = (np.arange(n) // side for n in occupied.shape)
    blocks = rows[:, None] * (int(cols[-1]) + 1) + cols[None, :]
    best: tuple[float, dict[str, NDArray[np.bool_]]] | None = None
    for draw in range(_DRAWS):
        dealt = _deal(occupied, blocks, fractions, f"{content}\0{draw}", seed)
        masks = _cut_buffer(dealt, fractions, window)
        score = _deviation(masks, occupied, fractions)
        if _has_room(masks, occupied, window) and (best is None or score < best[0]):
            best = score, masks
    if best is None:
        H, W = occupied.shape
        what = (
            f"no deal of blocks of {side} x {side} cells leaves each of {len(fractions)} splits "
            f"a window of {window} on a grid of {H} x {W}"
        )
        fix = "split by section or donor, or use a smaller window"
        raise BadInputError(Problem(code="B124", subject=f"slice '{name}'", what=what, fix=fix))
    observed = {name: int((mask & occupied).sum()) for name, mask in best[1].items()}
    return BlockMasks(
        masks=best[1],
        window=window,
        observed=observed,
        dropped=int(occupied.sum()) - sum(observed.values()),
    )


def window_origins(
    mask: NDArray[np.bool_], occupied: NDArray[np.bool_], window: int
) -> NDArray[np.bool_]:
    """Return the origins of the windows that lie inside a mask and hold an observed cell.

    Parameters
    ----------
    mask, occupied
        (H, W) cells of a split, and observed cells.
    window
        Window side.

    Returns
    -------
    numpy.ndarray
        (max(H - window, 0) + 1, max(W - window, 0) + 1), the origins of
        :func:`stbuild.windows.window_fill`. A window that reaches past a small grid counts the
        cells that exist.
    """
    cells = min(window, mask.shape[0]) * min(window, mask.shape[1])
    return np.asarray((window_fill(mask, window) == cells) & (window_fill(occupied, window) > 0))


def _deal(
    occupied: NDArray[np.bool_],
    blocks: NDArray[np.int64],
    fractions: Mapping[str, float],
    content: str,
    seed: int,
) -> dict[str, NDArray[np.bool_]]:
    """Deal every block to the split that lacks most of its wanted cells."""
    sizes = np.bincount(blocks.ravel(), occupied.ravel(), int(blocks.max()) + 1)
    lacking = {name: fractions[name] * float(sizes.sum()) for name in sorted(fractions)}
    owner = np.zeros(sizes.size, np.int64)
    order = hashed_order("split-block", seed, [f"{content}\0{i}" for i in range(sizes.size)])
    listed = sorted(fractions)
    for number in order:
        name = max(listed, key=lambda n: lacking[n])
        lacking[name] -= float(sizes[number])
        owner[number] = listed.index(name)
    return {name: owner[blocks] == i for i, name in enumerate(listed)}


def _cut_buffer(
    dealt: Mapping[str, NDArray[np.bool_]], fractions: Mapping[str, float], window: int
) -> dict[str, NDArray[np.bool_]]:
    """Take the buffer from the larger of two splits: the smaller have little to give."""
    from scipy.ndimage import maximum_filter  # late: slow to import

    near = {
        name: maximum_filter(mask, size=2 * window + 1, mode="constant", cval=0)
        for name, mask in dealt.items()
    }
    order = sorted(dealt, key=lambda name: (fractions[name], name))
    masks = {}
    for position, name in enumerate(order):
        mask = dealt[name].copy()
        for smaller in order[:position]:
            # Against all of its blocks, not only what is left of them: simple, and on the safe
            # side by at most one more window.
            mask &= ~near[smaller]
        masks[name] = mask
    return dict(sorted(masks.items()))


def _deviation(
    masks: Mapping[str, NDArray[np.bool_]],
    occupied: NDArray[np.bool_],
    fractions: Mapping[str, float],
) -> float:
    """Return how far the kept cells are from the wanted ones; cells in the buffer count too."""
    total = int(occupied.sum())
    kept = {name: int((masks[name] & occupied).sum()) for name in sorted(masks)}
    return sum((kept[name] - fractions[name] * total) ** 2 for name in kept)


def _has_room(
    masks: Mapping[str, NDArray[np.bool_]], occupied: NDArray[np.bool_], window: int
) -> bool:
    return all(bool(window_origins(mask, occupied, window).any()) for mask in masks.values())
