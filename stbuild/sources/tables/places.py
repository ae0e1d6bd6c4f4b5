"""Where the spots of a count table lie: from a table of positions, or from their own ids.

Rows are joined to spots by id, by array coordinates, or, where a table has neither, by order; what
finds no partner is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import Unit
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.ids import Coordinates, match_ids, match_points, parse_coordinates
from stbuild.sources.tables.keys import best_key, require_plausible
from stbuild.sources.tables.planes import Depth, Sections
from stbuild.sources.tables.positions import Positions

_AGREE: Final = 0.5
"""Farthest that a position may lie from the coordinates in the id of its spot, in steps."""
_MOST: Final = 0.9
"""Share of spots that must lie so near for ids to be coordinates."""
_FEW: Final = 16
"""Fewer spots fit any positions."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Coordinates of all N spots of a count table."""

    array: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """(row, col), each (N,)."""
    xy: NDArray[np.float64] | None = None
    """(N, 2)."""
    unit: Unit = "pixel"
    in_tissue: NDArray[np.bool_] | None = None
    sections: tuple[Sections, ...] = ()
    """Columns that may tell sections apart, with (N,) values, empty where a spot has none."""
    depth: Depth | None = None
    """Column of z with (N,) values, NaN where a spot has none."""
    ledger: dict[str, int] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()
    """(code, text) of what the user should know."""


@dataclass(frozen=True, kw_only=True)
class _Join:
    """Which row of a table belongs to which spot."""

    rows: NDArray[np.int64]
    """(N,) row of each spot, -1 where there is none."""
    by_keys: bool = False
    """Whether array coordinates named the spots."""
    note: str | None = None
    """What there is to say about how they were found."""


def place_spots(
    spots: list[str], positions: Positions | None, *, composite: bool = False
) -> Places:
    """Return where the spots lie.

    Parameters
    ----------
    spots
        (N,) ids.
    positions
        The table that belongs to them; without one the ids must be coordinates.
    composite
        Whether the ids are made of several columns, such as field and cell: they have the form of
        coordinates and are none.

    Raises
    ------
    SourceFaultError
        B046: nothing says where the spots are. B047: the rows cannot be told to belong to the
        spots. B056: the ids name several sections. B082: a spot has two rows.
    """
    own = parse_coordinates(spots)
    if positions is None:
        return _from_ids(spots, None if composite else own)
    join = _join(spots, None if composite else own, positions)
    if join.by_keys:
        positions = _without_keys(positions)
    notes = () if join.note is None else (("B047", join.note),)
    named = composite or (own is not None and not _agree(own, positions, join.rows))
    if own is not None and not join.by_keys and named:
        what = (
            f"the ids of the spots (first: {spots[0]!r:.60}) are no coordinates that the positions "
            f"of {positions.path.name} agree with: they are taken as names"
        )
        own, notes = None, (*notes, ("B051", what))
    places = _take(join.rows, own, positions)
    return _count(places, join.rows, positions, notes)


def place_rows(positions: Positions) -> Places:
    """Return where the spots lie by columns of the count table itself."""
    rows = np.arange(positions.n_rows)
    return _take(rows, None, positions)


def _from_ids(spots: list[str], own: Coordinates | None) -> Places:
    if own is None:
        what = (
            "no coordinates: no table of positions, and the ids of the spots are none "
            f"(first: {spots[0]!r:.60})"
        )
        fix = "give the folder with the positions, or --positions FILE"
        raise SourceFaultError("B046", "", what, fix)
    _require_one_section(own)
    notes: tuple[tuple[str, str], ...] = ()
    if not own.steps:
        what = (
            f"the ids of the spots are taken as positions, not as array coordinates: they lie "
            f"{own.spacing:.3g} apart on average (first: {spots[0]!r:.60})"
        )
        notes = (("B047", what),)
    if own.underscored:
        what = f"coordinates taken from the ids of the spots (column_row, as {spots[0]!r:.60})"
        notes = (*notes, ("B047", what))
    if own.steps and own.whole:
        return Places(array=(own.y, own.x), unit="array", notes=notes)
    return Places(xy=own.xy, unit=own.unit, notes=notes)


def _require_one_section(own: Coordinates) -> None:
    if len(own.groups) > 1:
        named = ", ".join(repr(group) for group in own.groups[:5])
        what = f"the ids of the spots name {len(own.groups)} sections ({named}) in one table"
        raise SourceFaultError("B056", "", what, "give each section as a table of its own")


def _join(spots: list[str], own: Coordinates | None, positions: Positions) -> _Join:
    """Join the rows of a table to the spots by id, by array coordinates, or by order."""
    best = np.full(len(spots), -1, np.int64)
    where = positions.path.name
    found = best_key(
        positions.ids, lambda key: match_ids(spots, key.values), len(spots), ("B047", where)
    )
    if found is not None:
        best = found.matches
        _require_once(best, found.key.values, where)
    if positions.keys is not None and own is not None:
        _require_one_section(own)
        rows = _join_points(own, positions, positions.keys)
        if np.count_nonzero(rows >= 0) > np.count_nonzero(best >= 0):
            return _Join(rows=rows, by_keys=True)
    if found is not None:
        require_plausible(found, len(spots), where)
        return _Join(rows=best)
    if positions.keys is None and not any(key.names_rows for key in positions.ids):
        return _join_in_order(spots, own, positions)
    what = (
        f"none of the {len(spots):,} spots stands in the table of positions {positions.path.name} "
        f"(first: {spots[0]!r:.60} here, {_first(positions)!r:.60} there)"
    )
    raise SourceFaultError("B047", "", what, "give the table of the same section: --positions FILE")


def _without_keys(positions: Positions) -> Positions:
    """Drop positions that are only the array coordinates which named the spots."""
    if positions.xy is None or positions.keys is None:
        return positions
    same = np.array_equal(positions.xy, positions.keys, equal_nan=True)
    return replace(positions, xy=None) if same else positions


def _first(positions: Positions) -> str:
    """Return the first row's id, or the coordinates in its stead."""
    if positions.ids and positions.n_rows:
        return positions.ids[0].values[0]
    if positions.keys is not None and positions.n_rows:
        return f"{positions.keys[0, 0]:g}, {positions.keys[0, 1]:g}"
    return ""


def _require_once(rows: NDArray[np.int64], ids: Sequence[str], where: str) -> None:
    """Check that no spot has two rows."""
    used = {ids[row] for row in rows[rows >= 0].tolist()}
    seen: set[str] = set()
    twice = []
    for name in ids:
        if name in seen and name in used:
            twice.append(name)
        seen.add(name)
    if twice:
        what = f"{len(twice):,} spots have several rows of positions (first: {twice[0]!r:.60})"
        raise SourceFaultError("B082", where, what, "keep one row per spot")


def _join_points(
    own: Coordinates, positions: Positions, keys: NDArray[np.float64]
) -> NDArray[np.int64]:
    spots, _ = match_points(own.xy, keys)
    found = np.flatnonzero(spots >= 0)
    taken, n_rows = np.unique(spots[found], return_counts=True)
    if (n_rows > 1).any():
        i = int(taken[np.argmax(n_rows > 1)])
        what = (
            f"{np.count_nonzero(n_rows > 1):,} spots have several rows of positions "
            f"(first: {own.x[i]:g}, {own.y[i]:g})"
        )
        raise SourceFaultError("B082", positions.path.name, what, "keep one row per spot")
    rows = np.full(own.x.size, -1, np.int64)
    rows[spots[found]] = found
    return rows


def _join_in_order(spots: list[str], own: Coordinates | None, positions: Positions) -> _Join:
    """Join rows without ids to the spots: by the coordinates in the ids, else one after the other.

    Where the ids are coordinates, the order must agree with them.
    """
    n = len(spots)
    if positions.n_rows != n:
        what = (
            f"{positions.path.name} has {positions.n_rows:,} positions without ids for {n:,} spots"
        )
        fix = "give positions with the ids of the spots, or one row per spot in the same order"
        raise SourceFaultError("B047", "", what, fix)
    said = f"{positions.path.name} has no ids: its {n:,} rows are taken in the order of the spots"
    if own is None or positions.xy is None:
        return _Join(rows=np.arange(n), note=said)
    rows, rounded = match_points(positions.xy, own.xy)
    if not rounded and (rows >= 0).all() and np.unique(rows).size == n:
        same = np.array_equal(rows, np.arange(n))
        order = "the same order" if same else "another order"
        note = f"{positions.path.name} has no ids: joined by coordinates, {order}"
        return _Join(rows=rows, note=note)
    worst = _disagreement(positions.xy, own.xy)
    if worst > _AGREE * (1.0 if own.steps else own.spacing):
        what = (
            f"the rows of {positions.path.name} do not follow the coordinates in the ids of the "
            f"spots: up to {worst:.3g} apart"
        )
        fix = "put its rows into the order of the spots, or give them ids"
        raise SourceFaultError("B047", "", what, fix)
    note = f"{said}; they agree with the ids to {worst:.2g}"
    return _Join(rows=np.arange(n), note=note)


def _disagreement(xy: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """Return how far positions lie from the points at most, after a linear fit."""
    return float(_misfit(xy, points).max(initial=0.0))


def _misfit(xy: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each finite position lies from its point after a linear fit, per axis."""
    known = np.isfinite(xy).all(axis=1)
    if np.count_nonzero(known) < 3:
        return np.zeros(0)
    terms = np.column_stack([xy[known] - xy[known].mean(axis=0), np.ones(known.sum())])
    fitted = terms @ np.linalg.lstsq(terms, points[known], rcond=None)[0]
    return np.asarray(np.abs(fitted - points[known]).max(axis=1), np.float64)


def _agree(own: Coordinates, positions: Positions, rows: NDArray[np.int64]) -> bool:
    """Tell whether coordinates in the ids are those of a table, but for unit, angle and mirror.

    Numbers such as a field of view and a cell of it have the same form and say no place.
    """
    points = positions.xy
    if points is None and positions.array is not None:
        points = np.stack(positions.array[::-1], axis=1)
    if points is None or np.count_nonzero(rows >= 0) < _FEW:
        return True
    found = rows >= 0
    rest = _misfit(points[rows[found]], own.xy[found])
    near = rest <= _AGREE * (1.0 if own.steps else own.spacing)
    return bool(np.mean(near) >= _MOST)


def _take(rows: NDArray[np.int64], own: Coordinates | None, positions: Positions) -> Places:
    """Return the coordinates of the spots from their rows."""

    def column(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = values[rows].astype(np.float64)
        found[rows < 0] = np.nan
        return found

    array = xy = None
    unit = positions.unit
    if positions.array is not None:
        array = column(positions.array[0]), column(positions.array[1])
    elif own is not None and own.steps:
        array = own.y, own.x
    if positions.xy is not None:
        xy = column(positions.xy)
    if own is not None:
        if xy is None and not (own.steps and own.whole):
            xy, unit = own.xy, own.unit
        elif xy is not None and np.allclose(xy, own.xy, rtol=0, atol=1e-6):
            unit = own.unit
        if unit == "array" and not own.whole and positions.array is None:
            array = None  # xy says the same
    tissue = None if positions.in_tissue is None else positions.in_tissue[rows] & (rows >= 0)
    if tissue is None and (rows < 0).any():
        tissue = rows >= 0
    return Places(
        array=array,
        xy=xy,
        unit=unit,
        in_tissue=tissue,
        sections=tuple((name, _texts(rows, values)) for name, values in positions.sections),
        depth=None if positions.depth is None else (positions.depth[0], column(positions.depth[1])),
    )


def _texts(rows: NDArray[np.int64], values: Sequence[str]) -> list[str]:
    return ["" if row < 0 else values[row] for row in rows.tolist()]


def _count(
    places: Places,
    rows: NDArray[np.int64],
    positions: Positions,
    notes: tuple[tuple[str, str], ...],
) -> Places:
    """Add what found no partner. Positions off the tissue need no counts."""
    used = np.zeros(positions.n_rows, bool)
    used[rows[rows >= 0]] = True
    expected = ~used if positions.in_tissue is None else ~used & positions.in_tissue
    n_lost, n_empty = int(np.count_nonzero(rows < 0)), int(np.count_nonzero(expected))
    if n_lost:
        what = (
            f"{n_lost:,} of {rows.size:,} spots do not stand in {positions.path.name}: "
            "taken as off the tissue"
        )
        notes = (*notes, ("B048", what))
    ledger = {"spots_without_position": n_lost, "positions_without_counts": n_empty}
    return replace(places, ledger=ledger, notes=notes)
