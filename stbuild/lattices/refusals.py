"""Why coordinates are refused, and what to do: advice that holds for the slice at hand."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import GateError, Problem, StError
from stbuild.lattices.arrays import is_swapped, read_array
from stbuild.lattices.bins import bin_positions, suggest_side
from stbuild.lattices.fourier import nearest_distance
from stbuild.lattices.gate import MOST_CELLS, measure_filling
from stbuild.lattices.lattice import Sites
from stbuild.lattices.snap import LEAST_CONFIDENCE
from stbuild.slices import Slice, SliceRecord

LAYOUT_OF: Final = {"hex": "hex-offset", "quincunx": "quincunx-offset", "square": "square"}
"""Layout of each kind of lattice."""
_READABLE: Final = 1e9
"""Sides of a grid from which their digits tell nothing."""


def refused(record: SliceRecord, code: str, what: str, fix: str, kind: type[StError]) -> StError:
    """Return the error of a slice whose coordinates are refused."""
    return kind(
        Problem(code=code, subject=f"slice '{record.name}'", where=record.path, what=what, fix=fix)
    )


def refuse_doubtful(record: SliceRecord, sites: Sites, config: GridConfig) -> None:
    """Refuse array coordinates that fit the positions as no known array does.

    Raises
    ------
    GateError
        B051: rows and columns swapped, so that neighbours would not be neighbours; or another
        ratio of pitches, where no layout is asked for.
    """
    if sites.measures["confidence"] >= LEAST_CONFIDENCE or config.layout == "square":
        return
    if is_swapped(sites):
        what = f"rows and columns of a hexagonal array are swapped: {sites.evidence}"
        fix = "swap array_row and array_col; or --coords positions takes the lattice from those"
        raise refused(record, "B051", what, fix, GateError)
    if config.layout == "auto":
        what = f"the positions are those of no known array: {sites.evidence}, quincunx about 1"
        fix = f"mend them, or say --layout {LAYOUT_OF[sites.kind]} or square, whichever it is"
        raise refused(record, "B051", what, fix, GateError)


def no_lattice(
    record: SliceRecord,
    st_slice: Slice,
    points: NDArray[np.float64],
    sites: Sites | None,
    pitch: float | None,
) -> StError:
    """Return the error of positions on no lattice that can be told.

    Parameters
    ----------
    record, st_slice
        The slice.
    points
        (N, 2) its finite positions, at least one.
    sites
        What was found and is doubtful, or None: then no layout of a lattice can be asked for.
    pitch
        Distance of neighbouring sites that was asked for.
    """
    what = "the positions are on no lattice that can be told"
    if sites is not None:
        what += f" (confidence {sites.measures['confidence']:.2f}; {sites.evidence})"
    if twins := len(points) - np.unique(points, axis=0).shape[0]:
        what += f"; {twins:,} spots lie exactly on another one, as after rounding to float32"
    fixes = []
    nearest = nearest_distance(points) if len(points) > 1 else None
    if pitch is not None and nearest is not None:
        what += f"; neighbouring spots lie {nearest:.4g} apart, --pitch says {pitch:g}"
        fixes.append("give --pitch in the unit of the positions, or leave it out")
    side = suggest_side(points)
    row, col = bin_positions(points, side)
    shape = (int(row.max()) + 1, int(col.max()) + 1)
    filled = measure_filling(row, col, shape)[0] if shape[0] * shape[1] <= MOST_CELLS else 0
    scale = st_slice.um_per_unit or 1.0
    unit = "um" if st_slice.unit == "um" or st_slice.um_per_unit else "of its own unit"
    fixes.append(
        f"--layout bin --bin-size {side * scale:.4g} ({unit}) would fill {filled:.0f} of 256 "
        "sites of a window"
    )
    if sites is not None:
        fixes.append(f"--layout {LAYOUT_OF.get(sites.kind, 'square')} takes the lattice in doubt")
    fixes.append("or give obs['array_row'] and obs['array_col']")
    return refused(record, "B053", what, "; ".join(fixes), GateError)


def too_empty(
    record: SliceRecord,
    st_slice: Slice,
    layout: str,
    shape: tuple[float, float],
    n_spots: int,
    median: float | None,
) -> StError:
    """Return the error of a grid whose patches would hold next to nothing."""
    filled = "" if median is None else f"; the median window holds {median:.0f} of 256 sites"
    sides = " x ".join(f"{n:.0f}" if n < _READABLE else f"{n:.3g}" for n in shape)
    what = (
        f"occupancy {n_spots / (shape[0] * shape[1]):.2%} on a {sides} grid in "
        f"layout {layout}{filled}: patches of it would hold next to nothing"
    )
    better = "--layout auto recognises a lattice, --layout bin --bin-size N makes one"
    if st_slice.array_row is not None and st_slice.array_col is not None and median is not None:
        sites = read_array(st_slice.array_row, st_slice.array_col, st_slice.xy)
        sure = sites.measures["confidence"] >= LEAST_CONFIDENCE
        if sure and LAYOUT_OF[sites.kind] != layout:
            better = f"--layout {LAYOUT_OF[sites.kind]} with --coords array"
    # Beyond the largest grid, where no window was looked at, nothing is built.
    fix = better if median is None else f"{better}; --force builds it all the same"
    return refused(record, "B050", what, fix, GateError)
