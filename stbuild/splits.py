"""Evaluation splits of labelled slices, frozen as files: ``paper20`` and ``block20``.

Pure functions of barcodes, cells, positions, labels and seed. Codes per spot: ``T`` train,
``E`` test, ``b`` dropped by the buffer, ``.`` unlabelled. Definitions: see ``rule`` of each.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stbuild.corpus.documents import SplitAssignment, SplitDocument
from stbuild.draws import hashed_order
from stbuild.grids import Grid

N_SEEDS: Final = 10
TRAIN_SHARE: Final = 0.2
TILE: Final = 8
BUFFER_UM: Final = 400.0
BUFFER_CELLS: Final = 4.0
MIN_CLASS: Final = 5
_MAX_DRAWS: Final = 1000

_PAPER_RULE: Final = (
    "Within each slice and class, a random 20 % of the labelled spots (rounded half up, at least "
    "one of a class with 5 or more) train and all others test."
)
_BLOCK_RULE: Final = (
    "Square tiles of 8 x 8 grid cells; a random 20 % of the tiles that hold labelled spots "
    "(rounded half up, at least one) train; spots of other tiles test unless a training spot "
    "lies within 400 um (4 cells where the pitch is unknown); redrawn, at most 1000 times, until "
    "every class with 5 or more spots is on both sides; if it never is, the draw with the most "
    "classes on both sides is kept."
)


def evaluation_splits(grids: Sequence[Grid]) -> list[SplitDocument]:
    """Return the split documents for all labelled slices; none where no slice has labels."""
    labelled = [grid for grid in grids if bool((grid.labels >= 0).any())]
    if not labelled:
        return []
    barcodes = {grid.meta.slug: tuple(grid.barcodes) for grid in labelled}
    makers = (("paper20", _PAPER_RULE, assign_paper20), ("block20", _BLOCK_RULE, assign_block20))
    return [
        SplitDocument(
            task=task,
            task_version=1,
            rule=rule,
            transductive=True,
            barcodes=barcodes,
            assignments=tuple(
                SplitAssignment(
                    seed=seed, slices={grid.meta.slug: assign(grid, seed) for grid in labelled}
                )
                for seed in range(N_SEEDS)
            ),
        )
        for task, rule, assign in makers
    ]


def assign_paper20(grid: Grid, seed: int) -> str:
    """Return one code per spot: the paper's random stratified 20/80 split."""
    codes = _blank(grid)
    for label in np.unique(grid.labels[grid.labels >= 0]):
        members = np.flatnonzero(grid.labels == label)
        ids = [f"{grid.meta.slug}\0{grid.barcodes[i]}" for i in members.tolist()]
        order = members[hashed_order("paper20", seed, ids)]
        n_train = int(TRAIN_SHARE * members.size + 0.5)
        if members.size >= MIN_CLASS:
            n_train = max(1, n_train)
        codes[order[:n_train]] = "T"
        codes[order[n_train:]] = "E"
    return "".join(codes)


def assign_block20(grid: Grid, seed: int) -> str:
    """Return one code per spot: tiles with a buffer between train and test."""
    tile_rows, tile_cols = grid.rows // TILE, grid.cols // TILE
    labelled = grid.labels >= 0
    tiles = sorted(
        set(zip(tile_rows[labelled].tolist(), tile_cols[labelled].tolist(), strict=True))
    )
    n_train = max(1, int(TRAIN_SHARE * len(tiles) + 0.5))
    positions, buffer = _metric(grid)
    classes = np.bincount(grid.labels[labelled])
    needed = set(np.flatnonzero(classes >= MIN_CLASS).tolist())
    best: tuple[int, NDArray[np.str_]] | None = None
    for attempt in range(_MAX_DRAWS):
        ids = [f"{grid.meta.slug}\0{attempt}\0{row}\0{col}" for row, col in tiles]
        chosen = {tiles[i] for i in hashed_order("block20", seed, ids)[:n_train]}
        inside = np.asarray(
            [pair in chosen for pair in zip(tile_rows.tolist(), tile_cols.tolist(), strict=True)]
        )
        codes = _assign_tiles(grid, inside, positions, buffer)
        both = set(grid.labels[codes == "T"].tolist()) & set(grid.labels[codes == "E"].tolist())
        if best is None or len(both & needed) > best[0]:
            best = len(both & needed), codes
        if both >= needed:
            break
    return "".join(best[1]) if best else "".join(_blank(grid))


def _assign_tiles(
    grid: Grid, inside: NDArray[np.bool_], positions: NDArray[np.float64], buffer: float
) -> NDArray[np.str_]:
    codes = _blank(grid)
    labelled = grid.labels >= 0
    train, test = labelled & inside, np.flatnonzero(labelled & ~inside)
    codes[train] = "T"
    codes[test] = "E"
    if train.any() and test.size:
        distance, _ = cKDTree(positions[train]).query(positions[test])
        codes[test[distance <= buffer]] = "b"
    return codes


def _blank(grid: Grid) -> NDArray[np.str_]:
    return np.full(len(grid.barcodes), ".", "<U1")


def _metric(grid: Grid) -> tuple[NDArray[np.float64], float]:
    """Return positions and the buffer in the same unit: micrometres, else grid cells."""
    meta = grid.meta
    if meta.pitch_um is not None and meta.pitch:
        return grid.xy * (meta.pitch_um / meta.pitch), BUFFER_UM
    return np.stack([grid.rows, grid.cols], axis=1).astype(np.float64), BUFFER_CELLS
