"""Labels from a table of their own, joined to the spots by id or by coordinates.

A table may hold several sections; rows of the others are left alone. What finds no partner is
counted; two different labels for one spot are refused. What the labels mean is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import Notice
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.columns import Pair, find_array, find_position, fold
from stbuild.sources.tables.ids import match_ids, match_points, parse_coordinates
from stbuild.sources.tables.keys import Found, Key, best_key
from stbuild.sources.tables.labels import LabelTable, read_label_table, row_keys, section_columns
from stbuild.sources.tables.sections import SectionRows, require_one_sample, rows_of_section
from stbuild.sources.values import to_labels


@dataclass(frozen=True, kw_only=True)
class _Join:
    """One way of joining the rows to the spots."""

    how: str
    spots: NDArray[np.int64]
    """(R,) spot of each row, -1 where there is none."""
    ids: Sequence[str] | None = None
    """(R,) ids that they were joined by, if they were."""
    placeless: NDArray[np.bool_]
    """(R,) whether a row has no coordinates to be joined by."""

    @property
    def n_spots(self) -> int:
        """Spots that have a row."""
        return int(np.unique(self.spots[self.spots >= 0]).size)


def join_labels(
    raw: RawSlice,
    path: Path,
    column: str | None,
    *,
    section: str | None,
    name: str | None = None,
) -> RawSlice:
    """Return the section with labels from a table.

    Rows are joined by spot id (with or without ``-1``, or as R spells it), or by array
    coordinates, whichever finds more spots; fractional coordinates are rounded to whole numbers
    where that brings no two spots together.

    Parameters
    ----------
    raw
        What a reader handed over.
    path
        The table.
    column
        Column with the labels: its name, or its number from 1 in a table without header; None
        takes the only one that can be meant.
    section
        What the table calls this section, where it holds several.
    name
        The slice's name, which a column of sections may hold as well.

    Raises
    ------
    SourceFaultError
        B056: barcodes of several samples, and nothing says which is this. B076: no such
        column, or nothing matches. B081: two labels for one spot. B022, B074 and others: the
        table is damaged or malformed.
    """
    table = read_label_table(path, column)
    rows = rows_of_section(table, section, name)
    inside = rows.inside
    join = _choose(raw, table, inside)
    if join.ids is not None and raw.sections is None and not rows.by_ending:
        ids = [join.ids[i] for i in np.flatnonzero(inside).tolist()]
        require_one_sample(ids, raw.barcodes, path.name)
    values = to_labels(table.columns[table.label])
    known = np.asarray([value is not None for value in values], bool)
    named = known & inside
    labels = _assign(raw, table, join, values, named)
    ledger = {
        "labels_without_spot": int(np.count_nonzero(named & ~join.placeless & (join.spots < 0))),
        "labels_without_position": int(np.count_nonzero(named & join.placeless)),
        "spots_without_label": sum(label is None for label in labels),
    }
    if rows.told:
        ledger["labels_of_other_sections"] = int(np.count_nonzero(known & ~inside))
    return replace(
        raw,
        labels=labels,
        files=tuple(sorted({*raw.files, path})),
        ledger={**raw.ledger, **ledger},
        notices=(*raw.notices, *_notices(table, rows, join, ledger)),
    )


def _choose(raw: RawSlice, table: LabelTable, inside: NDArray[np.bool_]) -> _Join:
    """Return the way of joining that finds most spots, the earlier of equals."""
    best = max(_ways(raw, table, inside), key=lambda join: join.n_spots, default=None)
    if best is not None and best.n_spots:
        return best
    keys = row_keys(table, inside)
    there = keys[0].values[0] if keys else ", ".join(column[0] for column in table.columns.values())
    what = (
        f"none of the {int(np.count_nonzero(inside)):,} labels matches a spot (first: "
        f"{raw.barcodes[0]!r:.60} in the slice, {there!r:.60} in the table; its columns: "
        f"{', '.join(repr(name) for name in table.names[:12]):.300})"
    )
    fix = "give the labels of this section, by barcode or by array coordinates x, y"
    raise SourceFaultError("B076", table.preview.path.name, what, fix)


def _ways(raw: RawSlice, table: LabelTable, inside: NDArray[np.bool_]) -> Iterator[_Join]:
    keys = row_keys(table, inside)
    found = _find_key(raw, table, keys, inside)
    nowhere = np.zeros(table.n_rows, bool)
    last = found is not None and found.key.numbers_rows  # coordinates say more than such numbers
    by_id: list[_Join] = []
    if found is not None:
        ids = found.key.values
        by_id.append(_Join(how="id", spots=found.matches, ids=ids, placeless=nowhere))
    if not last:
        yield from by_id
    own = parse_coordinates(keys[0].values) if keys else None
    if own is not None and raw.array is not None:
        values = own.xy
        values[~inside] = np.nan
        spots, _ = match_points(np.stack(raw.array[::-1], axis=1), values)
        yield _Join(how="coordinates in the ids", spots=spots, placeless=nowhere)
    yield from _by_points(raw, table, inside)
    if last:
        yield from by_id


def _find_key(
    raw: RawSlice, table: LabelTable, keys: Sequence[Key], inside: NDArray[np.bool_]
) -> Found | None:
    """Return the column of ids that finds most spots."""
    rows = np.flatnonzero(inside)

    def match(key: Key) -> NDArray[np.int64]:
        spots = np.full(table.n_rows, -1, np.int64)
        spots[rows] = match_ids([key.values[i] for i in rows.tolist()], raw.barcodes)
        return spots

    return best_key(keys, match, len(raw.barcodes), ("B076", table.preview.path.name))


def _by_points(raw: RawSlice, table: LabelTable, inside: NDArray[np.bool_]) -> Iterator[_Join]:
    if table.preview.names is None:
        return
    for pair, points, how in _point_pairs(raw, table):
        values = table.numbers(pair)
        values[~inside] = np.nan
        spots, rounded = match_points(points, values)
        if rounded and how == "positions":
            continue
        said = f"{how}, rounded to whole numbers" if rounded else how
        placeless = inside & ~np.isfinite(values).all(axis=1)
        yield _Join(how=said, spots=spots, placeless=placeless)


def _point_pairs(
    raw: RawSlice, table: LabelTable
) -> Iterator[tuple[Pair, NDArray[np.float64], str]]:
    """Yield columns of the table with the coordinates of the spots that they may equal."""
    names = fold(table.names)
    plain = None
    if {"x", "y"} <= set(names):
        plain = Pair(x=names.index("x"), y=names.index("y"), unit="array", name="x")
    array, position = find_array(table.names), find_position(table.names)
    if raw.array is not None:
        points = np.stack(raw.array[::-1], axis=1)
        for pair in (array, plain):
            if pair is not None:
                yield pair, points, "array coordinates"
    if raw.xy is not None:
        how = "array coordinates" if raw.unit == "array" else "positions"
        for pair in (plain, position):
            if pair is not None:
                yield pair, raw.xy, how


def _assign(
    raw: RawSlice,
    table: LabelTable,
    join: _Join,
    values: Sequence[str | None],
    named: NDArray[np.bool_],
) -> list[str | None]:
    """Return one label per spot; two different ones for a spot are refused."""
    labels: list[str | None] = [None] * len(raw.barcodes)
    twice: dict[int, str] = {}
    for row in np.flatnonzero(named & (join.spots >= 0)).tolist():
        spot, value = int(join.spots[row]), values[row]
        if labels[spot] is None:
            labels[spot] = value
        elif labels[spot] != value:
            twice.setdefault(spot, f"{labels[spot]!r:.60} and {value!r:.60}")
    if not twice:
        return labels
    spot, both = next(iter(twice.items()))
    what = (
        f"{len(twice):,} spots have two different labels (first: {raw.barcodes[spot]!r:.60}, "
        f"{both}; joined by {join.how})"
    )
    fix = (
        "keep one row per spot; where the table holds several sections, name this one in column "
        "`section` of the manifest"
    )
    raise SourceFaultError("B081", table.preview.path.name, what, fix)


def _notices(
    table: LabelTable, rows: SectionRows, join: _Join, ledger: dict[str, int]
) -> Iterator[Notice]:
    """Say how labels were joined wherever it did not go without remainder."""
    subject = f"labels '{table.preview.path.name}'"
    if rows.column is not None and rows.column not in section_columns(table):
        what = (
            f"column {table.names[rows.column]!r:.60} is taken to tell sections apart: "
            f"{ledger['labels_of_other_sections']:,} labels of others are left alone"
        )
        yield Notice(code="B077", subject=subject, what=what)
    lost = ledger["labels_without_spot"] + ledger["labels_without_position"]
    bare = ledger["spots_without_label"]
    if not lost and not bare and "rounded" not in join.how:
        return
    what = (
        f"labels of column {table.names[table.label]!r:.60} joined by {join.how}: "
        f"{lost:,} match no spot, {bare:,} spots have none"
    )
    yield Notice(code="B077", subject=subject, what=what)
