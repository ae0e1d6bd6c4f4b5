"""Cutting a slice into patches part by part, so that memory is bounded whatever its size.

A slice that fits is one part. Of a larger one, only what some windows see is read at a time: the
windows are grouped by where they start, in groups as large as memory allows and reading asks for.
Neither the grouping nor the order of parts can change a patch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.samples import Patch
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.grids import Box, GridSource
from stbuild.patches.cropping import (
    choose_draws,
    crop_cover,
    crop_training,
    select_genes,
    view_part,
)
from stbuild.patches.moments import SUMMED_AT_ONCE, slice_moments
from stbuild.splits import plan_blocks
from stbuild.windows import Window, plan_cover, plan_training

PART_BYTES: Final = 256 * 2**20
"""Dense counts of one part: a Visium slice (67 x 64 x 20,000, 16 bits) is one."""
_CHUNK: Final = 8
"""Reading rounds to chunks of this side."""
_OVERHEAD_CELLS: Final = 64
"""What reading one more part costs, in cells."""


@dataclass(frozen=True)
class Part:
    """Some windows and the cells that they see."""

    box: Box
    windows: tuple[Window, ...]


def cut_slice(
    grid: GridSource,
    vocabulary: Vocabulary,
    labels: Sequence[str],
    config: ShardConfig,
    *,
    windows: Sequence[Window] | None = None,
    part_bytes: int = PART_BYTES,
) -> Iterator[tuple[Window, Patch]]:
    """Yield the patches of a slice, training or evaluation as the configuration says.

    Parameters
    ----------
    grid
        The slice.
    vocabulary, labels
        Genes and sorted label names of the corpus.
    config
        Window, genes, draws, seed.
    windows
        Only these of the planned windows; None cuts all.
    part_bytes
        Largest dense array to hold.
    """
    meta = grid.meta
    n_genes = vocabulary.locate(grid.genes)[0].size
    cell_bytes = max(1, n_genes) * (2 if meta.max_count < 2**16 else 4)
    windows = plan_windows(grid, config) if windows is None else windows
    draws: list[NDArray[np.int64]] = []
    if config.cover is not None:
        draws = _whole_draws(grid, vocabulary, config, cell_bytes, part_bytes)
    for part in plan_parts(windows, meta.shape, config.window, cell_bytes, part_bytes):
        view = view_part(grid, part.box, vocabulary, labels, config.window)
        if config.cover is None:
            yield from crop_training(view, config, part.windows)
        else:
            yield from crop_cover(view, config, part.windows, draws)


def plan_windows(grid: GridSource, config: ShardConfig) -> list[Window]:
    """Return the windows of a slice: random ones for training, covering ones for evaluation."""
    if config.cover is None and config.assign == "block":
        return plan_blocks(grid.occupied(), grid.meta.counts_digest, config, grid.meta.name)
    if config.cover is None:
        return plan_training(grid.occupied(), grid.meta.counts_digest, config)
    return plan_cover(grid.occupied(), config)


def plan_parts(
    windows: Sequence[Window],
    shape: tuple[int, int],
    P: int,
    cell_bytes: int,
    part_bytes: int = PART_BYTES,
) -> list[Part]:
    """Group windows so that little is read and no part is larger than allowed.

    Parameters
    ----------
    windows
        Windows of one slice.
    shape
        (H, W) of its grid.
    P
        Window side.
    cell_bytes
        Bytes of the dense counts of one cell.
    part_bytes
        Largest part; a single window may exceed it.
    """
    H, W = shape
    if max(H, P) * max(W, P) * cell_bytes <= part_bytes:
        return [Part(Box(0, H, 0, W), tuple(windows))] if windows else []
    best: list[Part] = []
    least = float("inf")
    for side in (1, 4, 8, 16, 32, 64, 128, 256):
        parts = _group(windows, shape, P, side)
        if side > 1 and max(_area(p.box) for p in parts) * cell_bytes > part_bytes:
            break
        cost = sum(_read_cells(p.box) + _OVERHEAD_CELLS for p in parts)
        if cost < least:
            best, least = parts, cost
    return best


def _group(windows: Sequence[Window], shape: tuple[int, int], P: int, side: int) -> list[Part]:
    groups: dict[tuple[int, int], list[Window]] = {}
    for window in windows:
        groups.setdefault((window.row // side, window.col // side), []).append(window)
    parts = []
    for _, members in sorted(groups.items()):
        rows, cols = [w.row for w in members], [w.col for w in members]
        box = Box(min(rows), min(max(rows) + P, shape[0]), min(cols), min(max(cols) + P, shape[1]))
        parts.append(Part(box, tuple(members)))
    return parts


def _area(box: Box) -> int:
    return box.shape[0] * box.shape[1]


def _read_cells(box: Box) -> int:
    """Return how many cells are decoded for a part: whole chunks."""
    height = -(-box.bottom // _CHUNK) - box.top // _CHUNK
    width = -(-box.right // _CHUNK) - box.left // _CHUNK
    return height * width * _CHUNK * _CHUNK


def _whole_draws(
    grid: GridSource,
    vocabulary: Vocabulary,
    config: ShardConfig,
    cell_bytes: int,
    part_bytes: int,
) -> list[NDArray[np.int64]]:
    """Sum the moments over the whole slice block by block, and choose the genes of each draw."""
    columns, _ = vocabulary.locate(grid.genes)
    n_spots, cells = grid.meta.n_spots, max(1, part_bytes // cell_bytes)
    first, second = np.zeros((2, columns.size), np.int64 if n_spots <= SUMMED_AT_ONCE else object)
    for box in _blocks(grid.meta.shape, min(cells, SUMMED_AT_ONCE)):
        region = grid.cells(box)
        if region.totals.size:
            sums = slice_moments(select_genes(region.counts, columns), region.totals)
            first += sums[0]
            second += sums[1]
    return choose_draws(first, second, columns, grid.meta, config)


def _blocks(shape: tuple[int, int], cells: int) -> Iterator[Box]:
    """Yield disjoint boxes that make up the grid, each of at most `cells` or one chunk wide."""
    H, W = shape
    if cells >= H * W:
        yield Box(0, H, 0, W)
        return
    side = max(_CHUNK, int(cells**0.5) // _CHUNK * _CHUNK)
    for top in range(0, H, side):
        for left in range(0, W, side):
            yield Box(top, min(top + side, H), left, min(left + side, W))
