"""``block20`` and ``block20-wide``: tiles of a slice train, with a buffer to the test spots.

Tiles are drawn by hash and redrawn by a fixed rule; no draw depends on the order of the spots.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.draws import hashed_order
from stbuild.grid.grids import Grid
from stbuild.splits.codes import MIN_CLASS, N_SEEDS, TRAIN_SHARE, blank_codes, is_labelled

TILE: Final = 8
BUFFER_UM: Final = 400.0
BUFFER_CELLS: Final = 4.0
_DECIMALS: Final = 4
"""Of distances, a tenth of a nanometre: on an ideal lattice spots lie exactly at the edge, four
pitches of 100 um away, and the last bits of an estimated pitch would decide."""
WIDE_SHARE: Final = 0.1
"""Least share of the test spots that the wide buffer must leave."""
_MAX_DRAWS: Final = 1000
_WIDE_DRAWS: Final = 200

BLOCK_RULE: Final = (
    "Square tiles of 8 x 8 grid cells; a random 20 % of the tiles that hold labelled spots "
    "(rounded half up, at least one) train; spots of other tiles test unless a training spot "
    "lies within 400 um (4 cells where the pitch is unknown); redrawn, at most 1000 times, until "
    "every class with 5 or more spots is on both sides; if it never is, the draw with the most "
    "classes on both sides is kept."
)

_Drop = Callable[[NDArray[np.bool_], NDArray[np.int64]], NDArray[np.bool_]]
"""(N,) training spots, (n,) numbers of test spots -> (n,) whether the buffer drops each."""


def wide_rule(window: int) -> str:
    """Return the rule of ``block20-wide`` in words."""
    return (
        "Square tiles of 8 x 8 grid cells; a random 20 % of the tiles that hold labelled spots "
        "(rounded half up, at least one) train; spots of other tiles test unless a training spot "
        f"lies within {window // 2} rows and {window // 2} columns (half a window of {window}); "
        f"redrawn, at most {_WIDE_DRAWS} times, until 10 % of the test spots remain and two "
        "classes are on both sides; a slice for which some seed finds no such draw is undefined."
    )


def assign_block20(grid: Grid, seed: int) -> str:
    """Return one code per spot: tiles with a buffer between train and test."""
    classes = np.bincount(grid.labels[is_labelled(grid)])
    needed = set(np.flatnonzero(classes >= MIN_CLASS).tolist())
    best: tuple[int, NDArray[np.str_]] | None = None
    for codes in _draws("block20", grid, seed, _near_by_distance(grid), _MAX_DRAWS):
        both = _classes(grid, codes, "T") & _classes(grid, codes, "E")
        if best is None or len(both & needed) > best[0]:
            best = len(both & needed), codes
        if both >= needed:
            break
    return "".join(best[1]) if best else "".join(blank_codes(grid))


def assign_block20_wide(grid: Grid, seed: int, window: int) -> str | None:
    """Return one code per spot under a buffer of half a window, or None where it is undefined.

    Parameters
    ----------
    grid
        The slice.
    seed
        Seed of the split.
    window
        Side of a patch in cells.
    """
    for codes in _draws("block20-wide", grid, seed, _near_by_cells(grid, window // 2), _WIDE_DRAWS):
        kept, dropped = int((codes == "E").sum()), int((codes == "b").sum())
        both = _classes(grid, codes, "T") & _classes(grid, codes, "E")
        if len(both) >= 2 and kept >= WIDE_SHARE * (kept + dropped):
            return "".join(codes)
    return None


def wide_seeds(grid: Grid, window: int) -> tuple[str, ...] | None:
    """Return the codes of every seed, or None as soon as one of them is undefined."""
    found: list[str] = []
    for seed in range(N_SEEDS):
        codes = assign_block20_wide(grid, seed, window)
        if codes is None:
            return None
        found.append(codes)
    return tuple(found)


def _draws(
    task: str, grid: Grid, seed: int, drop: _Drop, n_draws: int
) -> Iterator[NDArray[np.str_]]:
    """Yield the codes of one draw of tiles after the other, those drawn before left out."""
    tile_rows, tile_cols = grid.rows // TILE, grid.cols // TILE
    labelled = is_labelled(grid)
    tiles = sorted(
        set(zip(tile_rows[labelled].tolist(), tile_cols[labelled].tolist(), strict=True))
    )
    n_train = max(1, int(TRAIN_SHARE * len(tiles) + 0.5))
    # One number per tile; a tile without labels has none, and -1 is never drawn.
    numbers = {tile: number for number, tile in enumerate(tiles)}
    pairs = zip(tile_rows.tolist(), tile_cols.tolist(), strict=True)
    tile_of = np.asarray([numbers.get(pair, -1) for pair in pairs], np.int64)
    seen: set[tuple[int, ...]] = set()
    for attempt in range(n_draws):
        ids = [f"{grid.meta.slug}\0{attempt}\0{row}\0{col}" for row, col in tiles]
        chosen = tuple(sorted(hashed_order(task, seed, ids)[:n_train]))
        # Small slices have few choices: one that was no better the first time is none now.
        if chosen in seen:
            continue
        seen.add(chosen)
        yield _assign_tiles(grid, labelled, np.isin(tile_of, chosen), drop)


def _assign_tiles(
    grid: Grid, labelled: NDArray[np.bool_], inside: NDArray[np.bool_], drop: _Drop
) -> NDArray[np.str_]:
    codes = blank_codes(grid)
    train, test = labelled & inside, np.flatnonzero(labelled & ~inside)
    codes[train] = "T"
    codes[test] = "E"
    if train.any() and test.size:
        codes[test[drop(train, test)]] = "b"
    return codes


def _classes(grid: Grid, codes: NDArray[np.str_], side: str) -> set[int]:
    return set(grid.labels[codes == side].tolist())


def _near_by_distance(grid: Grid) -> _Drop:
    """Return the buffer of ``block20``: 400 um, or 4 cells where the pitch is unknown."""
    from scipy.spatial import cKDTree  # late: slow to import, and training corpora need none

    positions, buffer = _metric(grid)

    def drop(train: NDArray[np.bool_], test: NDArray[np.int64]) -> NDArray[np.bool_]:
        distance, _ = cKDTree(positions[train]).query(positions[test])
        return np.asarray(np.round(distance, _DECIMALS) <= buffer)

    return drop


def _near_by_cells(grid: Grid, reach: int) -> _Drop:
    """Return a buffer of so many rows and columns: the cells that a window around a spot sees."""
    from scipy.ndimage import maximum_filter  # late: slow to import

    def drop(train: NDArray[np.bool_], test: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(grid.meta.shape, bool)
        mask[grid.rows[train], grid.cols[train]] = True
        near = maximum_filter(mask, size=2 * reach + 1, mode="constant", cval=0)
        return np.asarray(near[grid.rows[test], grid.cols[test]], bool)

    return drop


def _metric(grid: Grid) -> tuple[NDArray[np.float64], float]:
    """Return positions and the buffer in the same unit: micrometres, else grid cells."""
    meta = grid.meta
    if meta.pitch_um is not None and meta.pitch:
        return grid.xy * (meta.pitch_um / meta.pitch), BUFFER_UM
    return np.stack([grid.rows, grid.cols], axis=1).astype(np.float64), BUFFER_CELLS
