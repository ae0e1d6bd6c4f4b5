"""A cell for every spot: which coordinates are taken, which layout, and what is refused.

Pure functions of a slice's coordinates and the configuration; the order of the spots leaves no
trace. Rows before columns.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.lattices.arrays import read_array
from stbuild.lattices.bins import bin_positions, count_bins, mean_spacing
from stbuild.lattices.gate import (
    LEAST_NEIGHBOURS,
    LEAST_SITES,
    MOST_CELLS,
    SMALL_GRID,
    measure_filling,
)
from stbuild.lattices.lattice import Lattice, Sites, step_along_rows
from stbuild.lattices.ranks import rank_axis, scale_axis
from stbuild.lattices.refusals import LAYOUT_OF, no_lattice, refuse_doubtful, refused, too_empty
from stbuild.lattices.snap import LEAST_CONFIDENCE, finite_rows, snap_positions
from stbuild.slices import Slice, SliceRecord

_NEAR_WHOLE: Final = 0.15
"""Array coordinates whose pitch is 1 to within this, unturned, are rounded to whole numbers."""


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Cells of the placed spots, before any check."""

    layout: str
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    placed: NDArray[np.bool_]
    measures: dict[str, float]
    evidence: str
    pitch: float | None = None


def assign_cells(record: SliceRecord, st_slice: Slice, config: GridConfig) -> Lattice:
    """Map every spot of a slice to a grid cell.

    ``auto`` takes whole array coordinates, or recognises the lattice of the positions; the layout
    follows from its kind. ``rank`` is Eq. 5 as printed, ``px100`` scales to 0..100 first, ``bin``
    makes square bins; see ``manifests/schema/README.md``.

    Parameters
    ----------
    record
        The slice's id and file, for messages.
    st_slice
        Slice with integer array coordinates, or positions, or both.
    config
        layout, coords, pitch, bin_size, collisions, off_grid, max_gap, gaps, force.

    Raises
    ------
    BadInputError
        B046, B048, B055: coordinates that are missing, or spots off the grid, where they are
        refused. B049: spots that share a cell, where they are refused. B052: a layout that the
        coordinates cannot have.
    GateError
        B050: a grid too empty for patches. B051: array coordinates whose rows and columns are
        swapped, or of no known array. B053: nothing in the positions tells a lattice.
    """
    if config.layout in ("px100", "bin"):
        points, placed = _finite(record, st_slice, config)
        scaled = config.layout == "px100"
        cells = _scale(points, config) if scaled else _bin(record, points, st_slice, config)
        return _finish(record, st_slice, config, _say_kind(st_slice), replace(cells, placed=placed))
    if config.layout == "rank":
        return _finish(
            record, st_slice, config, _say_kind(st_slice), _rank(record, st_slice, config)
        )
    sites = _find_sites(record, st_slice, config)
    layout = _choose_layout(record, sites, config)
    return _finish(record, st_slice, config, sites.kind, _lay_out(sites, layout))


def _use_array(st_slice: Slice, config: GridConfig) -> bool:
    has_array = st_slice.array_row is not None and st_slice.array_col is not None
    return has_array and config.coords != "positions"


def _array(st_slice: Slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if st_slice.array_row is None or st_slice.array_col is None:
        msg = "no array coordinates"
        raise ValueError(msg)
    return st_slice.array_row, st_slice.array_col


def _say_kind(st_slice: Slice) -> str:
    """Return what the array coordinates lie on; without them nothing was looked at."""
    if st_slice.array_row is None or st_slice.array_col is None:
        return "irregular"
    return read_array(st_slice.array_row, st_slice.array_col, st_slice.xy).kind


def _find_sites(record: SliceRecord, st_slice: Slice, config: GridConfig) -> Sites:
    if _use_array(st_slice, config):
        sites = read_array(*_array(st_slice), st_slice.xy)
        refuse_doubtful(record, sites, config)
        if config.layout != "square":
            return sites
        rows, cols = _array(st_slice)  # every one of them has a site on a full array
        return replace(sites, row=rows, col=cols, placed=np.ones(rows.size, bool))
    if config.coords == "array" or st_slice.xy is None:
        what = "no whole array coordinates" if config.coords == "array" else "no positions"
        fix = "give them, or leave --coords auto"
        raise refused(record, "B046", what, fix, BadInputError)
    _, placed = _finite(record, st_slice, config)
    found = snap_positions(st_slice.xy, config.pitch)
    if found is not None and found.measures["confidence"] >= LEAST_CONFIDENCE:
        return _near_whole(st_slice, found)
    if found is not None and config.layout != "auto":
        return replace(found, evidence=f"{found.evidence}, though that is doubtful")
    raise no_lattice(record, st_slice, st_slice.xy[placed], found, config.pitch)


def _near_whole(st_slice: Slice, sites: Sites) -> Sites:
    """Prefer the whole numbers that array coordinates stand next to."""
    measures = sites.measures
    unturned = abs(measures["angle_deg"]) < 3
    if st_slice.unit != "array" or sites.kind != "square" or st_slice.xy is None:
        return sites
    if abs(measures["pitch"] - 1) > _NEAR_WHOLE or not unturned:
        return sites
    whole = np.rint(np.where(sites.placed[:, None], st_slice.xy, 0)).astype(np.int64)
    if np.unique(whole[sites.placed], axis=0).shape[0] < np.count_nonzero(sites.placed):
        return sites
    return replace(sites, row=whole[:, 1], col=whole[:, 0])


def _choose_layout(record: SliceRecord, sites: Sites, config: GridConfig) -> str:
    if config.layout == "auto":
        return LAYOUT_OF[sites.kind]
    checkerboard = sites.kind in ("hex", "quincunx")
    if config.layout in ("hex-offset", "quincunx-offset") and not checkerboard:
        what = f"layout {config.layout} needs a checkerboard array, but {sites.evidence}"
        raise refused(record, "B052", what, "use --layout square or rank", BadInputError)
    return config.layout


def _lay_out(sites: Sites, layout: str) -> _Cells:
    row, col = sites.row, sites.col
    placed = sites.placed
    if layout.endswith("-offset"):
        # One parity for all: shift it to even, then every row holds each half-column once.
        first = int(np.argmax(placed))
        col = col + (row[first] + col[first]) % 2
        if "peak" in sites.measures:
            # Recognised rows have no number of their own: of both foldings take the narrower.
            col = min((col // 2, (col + 1) // 2), key=lambda folded: int(np.ptp(folded[placed])))
        else:
            col = col // 2
    return _Cells(
        layout=layout,
        row=row - row[placed].min(),
        col=col - col[placed].min(),
        placed=placed,
        measures=sites.measures,
        evidence=sites.evidence,
        pitch=sites.measures.get("pitch"),
    )


def _finite(
    record: SliceRecord, st_slice: Slice, config: GridConfig
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return all positions, and which of them are finite; refuse the others unless dropped."""
    if st_slice.xy is None:
        if st_slice.array_row is not None and st_slice.array_col is not None:
            xy = np.stack([st_slice.array_col, st_slice.array_row], axis=1).astype(np.float64)
            return xy, np.ones(len(xy), bool)
        fix = "give obsm['spatial'] or a table of positions"
        raise refused(record, "B046", "no positions", fix, BadInputError)
    finite = finite_rows(st_slice.xy)
    n_bad = int(np.count_nonzero(~finite))
    if n_bad and (config.off_grid == "error" or n_bad == finite.size):
        first = st_slice.barcodes[int(np.argmin(finite))]
        what = f"{n_bad:,} of {finite.size:,} rows are not finite (first: spot {first})"
        fix = "--off-grid drop leaves them out; or give array coordinates for all"
        raise refused(record, "B048", what, fix, BadInputError)
    return st_slice.xy, finite


def _rank(record: SliceRecord, st_slice: Slice, config: GridConfig) -> _Cells:
    if _use_array(st_slice, config):
        rows, cols = (values.astype(np.float64) for values in _array(st_slice))
        placed, what = np.ones(rows.size, bool), "array coordinates"
    else:
        xy, placed = _finite(record, st_slice, config)
        rows, cols, what = xy[:, 1], xy[:, 0], "positions"
    return _rank_both("rank", rows, cols, placed, config, f"rank of the {what} (Eq. 5)")


def _scale(xy: NDArray[np.float64], config: GridConfig) -> _Cells:
    placed = finite_rows(xy)
    scaled = np.zeros_like(xy)
    for axis in (0, 1):
        scaled[placed, axis] = scale_axis(xy[placed, axis])
    evidence = "each axis scaled to 0..100, rounded and ranked"
    return _rank_both("px100", scaled[:, 1], scaled[:, 0], placed, config, evidence)


def _rank_both(
    layout: str,
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    placed: NDArray[np.bool_],
    config: GridConfig,
    evidence: str,
) -> _Cells:
    found = [rank_axis(v[placed], config.max_gap, config.gaps) for v in (rows, cols)]
    whole = np.zeros((2, rows.size), np.int64)
    whole[:, placed] = [found[0].rank, found[1].rank]
    closed = found[0].n_closed + found[1].n_closed
    if closed:
        evidence += f"; {closed:,} missing lines closed"
    if found[0].n_inserted or found[1].n_inserted:
        evidence += f"; {found[0].n_inserted} empty rows, {found[1].n_inserted} columns kept open"
    measures = {
        "n_gap_rows": float(found[0].n_inserted),
        "n_gap_cols": float(found[1].n_inserted),
        "n_closed_lines": float(closed),
    }
    return _Cells(
        layout=layout,
        row=whole[0],
        col=whole[1],
        placed=placed,
        measures=measures,
        evidence=evidence,
    )


def _bin(
    record: SliceRecord, xy: NDArray[np.float64], st_slice: Slice, config: GridConfig
) -> _Cells:
    placed = finite_rows(xy)
    scale = 1.0 if st_slice.unit == "um" else st_slice.um_per_unit
    if config.bin_size is None:
        side = mean_spacing(xy[placed])
    else:
        side = config.bin_size if scale is None else config.bin_size / scale
    shape = count_bins(xy[placed], side)
    if shape[0] * shape[1] > MOST_CELLS:  # told before positions are cast to numbers of bins
        raise too_empty(record, st_slice, "bin", shape, int(placed.sum()), None)
    whole = np.zeros((2, len(xy)), np.int64)
    whole[:, placed] = bin_positions(xy[placed], side)
    told = f"{side * scale:.4g} um" if scale is not None else f"{side:.4g} of the source's unit"
    return _Cells(
        layout="bin",
        row=whole[0],
        col=whole[1],
        placed=placed,
        measures={"bin_side": side},
        evidence=f"square bins of {told}",
        pitch=side,
    )


def _finish(
    record: SliceRecord,
    st_slice: Slice,
    config: GridConfig,
    kind: str,
    cells: _Cells,
) -> Lattice:
    """Check cells against the named policies and the gate, and say what was found."""
    placed, row, col, layout = cells.placed, cells.row, cells.col, cells.layout
    xy = st_slice.xy
    n_off = int(np.count_nonzero(~placed))
    if n_off and config.off_grid == "error":
        first = st_slice.barcodes[int(np.argmin(placed))]
        what = f"{n_off:,} of {placed.size:,} spots lie off the lattice (first: {first})"
        fix = "--off-grid drop leaves them out, counted"
        if "parity" in cells.measures:
            what += f": {cells.evidence}"
            fix = f"mend their array coordinates; {fix}; --layout square takes a full array"
        raise refused(record, "B055", what, fix, BadInputError)
    shape = (int(row[placed].max()) + 1, int(col[placed].max()) + 1)
    if shape[0] * shape[1] > MOST_CELLS:
        raise too_empty(record, st_slice, layout, shape, int(placed.sum()), None)
    n_shared = _check_shared(record, st_slice, config, layout, row, col, placed, shape[1])
    median, near = measure_filling(row[placed], col[placed], shape)
    small = shape[0] * shape[1] <= SMALL_GRID
    if median < LEAST_SITES and near < LEAST_NEIGHBOURS and not small and not config.force:
        raise too_empty(record, st_slice, layout, shape, int(placed.sum()), median)
    measures = cells.measures | {
        "median_window": median,
        "n_collisions": float(n_shared),
        "n_off_grid": float(n_off),
    }
    lattice = Lattice(
        layout=layout,
        kind=kind,
        row=np.where(placed, row, -1).astype(np.int32),
        col=np.where(placed, col, -1).astype(np.int32),
        shape=shape,
        pitch=cells.pitch if xy is not None else None,
        evidence=cells.evidence if config.layout == "auto" else f"asked for; {cells.evidence}",
        measures=measures,
    )
    if lattice.pitch is None and xy is not None:
        lattice = replace(lattice, pitch=step_along_rows(row, col, placed & finite_rows(xy), xy))
    measures["occupancy"] = lattice.occupancy
    return lattice


def _check_shared(
    record: SliceRecord,
    st_slice: Slice,
    config: GridConfig,
    layout: str,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    placed: NDArray[np.bool_],
    width: int,
) -> int:
    """Return how many spots share a cell with an earlier one; refuse them unless settled."""
    where = np.flatnonzero(placed)
    cell = row[where] * width + col[where]
    order = np.argsort(cell, kind="stable")
    twins = np.flatnonzero(np.diff(cell[order]) == 0)
    if not twins.size or layout == "bin" or config.collisions != "error":
        return int(twins.size)
    ids = st_slice.barcodes
    pairs = [(int(where[order[i]]), int(where[order[i + 1]])) for i in twins[:3]]
    listed = "; ".join(f"{ids[a]} and {ids[b]} at row {row[a]}, column {col[a]}" for a, b in pairs)
    what = f"{twins.size:,} pairs of spots share a grid cell ({listed})"
    if st_slice.xy is not None and all((st_slice.xy[a] == st_slice.xy[b]).all() for a, b in pairs):
        what += "; their positions are equal, as after rounding to float32"
    fix = "--collisions sum adds their counts, --collisions first keeps one; both are counted"
    raise refused(record, "B049", what, fix, BadInputError)
