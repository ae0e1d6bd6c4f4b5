"""From spot coordinates to grid cells: detection of the lattice, and the layouts.

Pure functions of integers and positions; the answer carries its evidence. Rows before columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import Layout
from stbuild.corpus.errors import BadInputError, GateError, Problem, StError
from stbuild.slices import Slice, SliceRecord

_MIN_OCCUPANCY: Final = 0.05
_SMALL_GRID: Final = 1024
"""Grids of at most so many cells are never refused for their occupancy."""
_HEX_RATIO: Final = sqrt(3)


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Grid cell of every spot, and how the layout was chosen."""

    layout: str
    kind: str
    """``hex``, ``quincunx``, ``square`` or ``unknown``: what the spots lie on."""
    row: NDArray[np.int32]
    """(N,) grid row of each spot, from 0."""
    col: NDArray[np.int32]
    shape: tuple[int, int]
    """(H, W)."""
    pitch: float | None
    """Distance of neighbouring cells along a row, in the unit of the positions."""
    evidence: str
    """Why this layout, in words with numbers."""

    @property
    def occupancy(self) -> float:
        """Share of grid cells that hold a spot."""
        return self.row.size / (self.shape[0] * self.shape[1])


def assign_cells(record: SliceRecord, st_slice: Slice, layout: Layout) -> Lattice:
    """Map every spot of a slice to a grid cell.

    Layouts: ``rank`` is Eq. 5 as printed (rank among the distinct coordinates); ``square`` keeps
    the array indices, shifted to 0; ``hex-offset`` halves the column of a checkerboard array
    (Visium), so that every hex neighbour falls into the 3 x 3 around a cell.

    Parameters
    ----------
    record
        The slice's id and file, for messages.
    st_slice
        Slice with integer array coordinates, or positions.
    layout
        ``auto`` detects the lattice; the others are taken as given.

    Raises
    ------
    BadInputError
        Two spots in one cell, or a layout that the coordinates cannot have.
    GateError
        A grid so empty that the coordinates are no lattice.
    """
    rows, cols, from_array = _indices(st_slice)
    kind, evidence = _detect(rows, cols, st_slice.xy if from_array else None)
    chosen: str = layout
    if layout == "auto":
        chosen = {"hex": "hex-offset", "quincunx": "hex-offset", "square": "square"}.get(
            kind, "rank"
        )
        if not from_array:
            chosen = "rank"
            evidence = "no integer array coordinates; rank of the positions"
    if chosen == "hex-offset" and kind not in ("hex", "quincunx"):
        what = f"layout hex-offset needs a checkerboard array, but {evidence}"
        raise _refused(record, "B052", what, "use --layout square or rank", BadInputError)
    row, col = _place(chosen, rows, cols)
    shape = (int(row.max()) + 1, int(col.max()) + 1)
    _require_occupied(record, row.size, shape)
    _require_one_each(record, row, col, shape[1], st_slice.barcodes)
    return Lattice(
        layout=chosen,
        kind=kind,
        row=row.astype(np.int32),
        col=col.astype(np.int32),
        shape=shape,
        pitch=_pitch(row, col, st_slice.xy),
        evidence=evidence if layout == "auto" else f"asked for; {evidence}",
    )


def _indices(st_slice: Slice) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    if st_slice.array_row is not None and st_slice.array_col is not None:
        return st_slice.array_row, st_slice.array_col, True
    if st_slice.xy is None:
        msg = "a slice has array coordinates or positions"
        raise ValueError(msg)
    # Rank among the distinct values: equal floats share a rank, -0.0 equals 0.0.
    _, cols = np.unique(st_slice.xy[:, 0] + 0.0, return_inverse=True)
    _, rows = np.unique(st_slice.xy[:, 1] + 0.0, return_inverse=True)
    return rows.astype(np.int64), cols.astype(np.int64), False


def _detect(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> tuple[str, str]:
    """Return the kind of lattice and the evidence for it."""
    even = int(np.count_nonzero((rows + cols) % 2 == 0))
    share = max(even, rows.size - even) / rows.size
    both_parities = np.unique(rows % 2).size == 2
    if share < 1 or not both_parities or rows.size < 4:
        return "square", f"rows and columns of mixed parity ({share:.0%} of one)"
    ratio = _pitch_ratio(rows, cols, xy)
    parity = "row + col has one parity for all spots"
    if ratio is None:
        return "hex", f"{parity}; no positions to tell hex from quincunx"
    kind = "hex" if abs(ratio - _HEX_RATIO) < abs(ratio - 1) else "quincunx"
    return kind, f"{parity}; row pitch is {ratio:.2f} of the column pitch (hex {_HEX_RATIO:.2f})"


def _pitch_ratio(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> float | None:
    """Return row pitch over column pitch, from a linear fit of the positions to the indices."""
    if xy is None:
        return None
    design = np.stack([rows, cols, np.ones_like(rows)], axis=1).astype(np.float64)
    solution, _, rank, _ = np.linalg.lstsq(design, xy, rcond=None)
    steps = np.hypot(solution[:2, 0], solution[:2, 1])
    return float(steps[0] / steps[1]) if rank == 3 and steps[1] > 0 else None


def _place(
    layout: str, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if layout == "rank":
        _, row = np.unique(rows, return_inverse=True)
        _, col = np.unique(cols, return_inverse=True)
    elif layout == "hex-offset":
        # One parity for all: shift it to even, then every row holds each half-column once.
        parity = int((rows[0] + cols[0]) % 2)
        half = (cols + parity) // 2
        row, col = rows - rows.min(), half - half.min()
    else:
        row, col = rows - rows.min(), cols - cols.min()
    return row, col


def _pitch(
    row: NDArray[np.int64], col: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> float | None:
    """Return the median distance of spots that are neighbours along a grid row."""
    if xy is None:
        return None
    order = np.lexsort((col, row))
    beside = (np.diff(row[order]) == 0) & (np.diff(col[order]) == 1)
    if not beside.any():
        return None
    steps = np.diff(xy[order], axis=0)[beside]
    return float(np.median(np.hypot(steps[:, 0], steps[:, 1])))


def _require_occupied(record: SliceRecord, n_spots: int, shape: tuple[int, int]) -> None:
    cells = shape[0] * shape[1]
    if cells > _SMALL_GRID and n_spots / cells < _MIN_OCCUPANCY:
        what = (
            f"occupancy {n_spots / cells:.2%} < {_MIN_OCCUPANCY:.0%} on a {shape[0]} x {shape[1]} "
            "grid: the coordinates are not a lattice"
        )
        fix = "give integer obs['array_row'] and obs['array_col']"
        raise _refused(record, "B050", what, fix, GateError)


def _require_one_each(
    record: SliceRecord,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    width: int,
    barcodes: Sequence[str],
) -> None:
    cell = row.astype(np.int64) * width + col
    order = np.argsort(cell, kind="stable")
    twins = np.flatnonzero(np.diff(cell[order]) == 0)
    if not twins.size:
        return
    pairs = [(int(order[i]), int(order[i + 1])) for i in twins[:3]]
    listed = "; ".join(
        f"{barcodes[a]} and {barcodes[b]} at row {row[a]}, column {col[a]}" for a, b in pairs
    )
    what = f"{twins.size:,} pairs of spots share a grid cell ({listed})"
    raise _refused(record, "B049", what, "drop one of each pair from the file", BadInputError)


def _refused(record: SliceRecord, code: str, what: str, fix: str, kind: type[StError]) -> StError:
    return kind(
        Problem(code=code, subject=f"slice '{record.name}'", where=record.path, what=what, fix=fix)
    )
