"""Whether windows of two splits of one slice share cells, as they may where blocks are split."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PlacedWindow:
    """One window of a corpus."""

    slug: str
    split: str
    row: int
    """Grid row of its first cell."""
    col: int
    side: int


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Cells of a slice that windows of two splits both hold."""

    slug: str
    splits: tuple[str, str]
    cells: int


def find_overlaps(windows: Iterable[PlacedWindow]) -> Iterator[Overlap]:
    """Yield every slice and pair of splits whose windows share cells, in order of their names."""
    placed: dict[str, dict[str, list[PlacedWindow]]] = {}
    for window in windows:
        placed.setdefault(window.slug, {}).setdefault(window.split, []).append(window)
    for slug, by_split in sorted(placed.items()):
        if len(by_split) < 2:
            continue
        covered = _cover(by_split)
        for one, two in combinations(sorted(by_split), 2):
            cells = int((covered[one] & covered[two]).sum())
            if cells:
                yield Overlap(slug=slug, splits=(one, two), cells=cells)


def _cover(by_split: dict[str, list[PlacedWindow]]) -> dict[str, NDArray[np.bool_]]:
    """Return the (H, W) cells that the windows of each split hold."""
    every = [window for group in by_split.values() for window in group]
    shape = (max(w.row + w.side for w in every), max(w.col + w.side for w in every))
    covered = {}
    for split, group in by_split.items():
        mask = np.zeros(shape, bool)
        for window in group:
            mask[window.row : window.row + window.side, window.col : window.col + window.side] = (
                True
            )
        covered[split] = mask
    return covered
