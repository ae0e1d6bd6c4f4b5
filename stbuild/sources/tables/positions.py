"""Tables of coordinates: selection and alignment tables of ST, cell tables, lists of positions.

What a column means is told by its name, or in a table without header by the number of columns.
Which row belongs to which spot is decided in :mod:`stbuild.sources.tables.places`.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import Unit
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import (
    TISSUE,
    Pair,
    find,
    find_array,
    find_depth,
    find_keys,
    find_position,
    no_genes,
)
from stbuild.sources.tables.keys import Key, key_columns, make_keys
from stbuild.sources.tables.planes import Depth, Sections, as_sections, section_places
from stbuild.sources.tables.preview import Preview, cut_end, split_fields
from stbuild.sources.tables.text import decode, read_lines
from stbuild.sources.values import is_missing

_TRUTH: Final = {"true": "1", "false": "0", "t": "1", "f": "0"}
_SPACERANGER: Final = 6


@dataclass(frozen=True, kw_only=True)
class Positions:
    """R rows of coordinates, NaN where a row has none."""

    path: Path
    n_rows: int
    ids: tuple[Key, ...] = ()
    """Columns that may hold the ids of the spots, those of usual names first."""
    keys: NDArray[np.float64] | None = None
    """(R, 2) array coordinates (x = column, y = row) that name a spot."""
    array: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """(row, col), each (R,)."""
    xy: NDArray[np.float64] | None = None
    """(R, 2) positions."""
    unit: Unit = "pixel"
    in_tissue: NDArray[np.bool_] | None = None
    """(R,) whether a spot lies on the tissue, where the table says so."""
    sections: tuple[Sections, ...] = ()
    """Columns that may tell sections apart, with (R,) values."""
    depth: Depth | None = None
    """Column of z with (R,) values, where the table has one beside x and y."""


@dataclass(frozen=True, kw_only=True)
class _Roles:
    """Which columns of a table of positions mean what."""

    ids: tuple[tuple[int, ...], ...] = ()
    """Columns that may hold the ids of the spots; an id may have several parts."""
    keys: Pair | None = None
    array: Pair | None = None
    xy: Pair | None = None
    tissue: int | None = None
    sections: tuple[int, ...] = ()
    depth: int | None = None

    def wanted(self) -> list[int]:
        """Return the columns to read, ascending."""
        pairs = [pair for pair in (self.keys, self.array, self.xy) if pair is not None]
        single = {i for i in (self.tissue, self.depth) if i is not None}
        ids = {i for parts in self.ids for i in parts}
        return sorted(
            {*ids, *single, *self.sections, *(i for pair in pairs for i in (pair.x, pair.y))}
        )


def read_columns(preview: Preview, wanted: Sequence[int]) -> dict[int, list[str]]:
    """Read some columns of a table as text.

    Raises
    ------
    SourceFaultError
        B022: a row of another length. B074: not UTF-8. Damage of the file.
    """
    columns: dict[int, list[str]] = {i: [] for i in wanted}
    with closing(read_lines(preview.path)) as lines:
        for number, line in enumerate(lines, 1):
            if number <= preview.n_header or not line.strip():
                continue
            row = cut_end(line, preview, number)
            fields = split_fields(decode(row, preview.path, number), preview.delimiter)
            if len(fields) != preview.n_fields:
                what = f"line {number:,} has {len(fields)} fields, expected {preview.n_fields}"
                raise SourceFaultError("B022", preview.path.name, what, "mend that line")
            for i, column in columns.items():
                column.append(fields[i].strip())
    return columns


def to_numbers(values: Sequence[str], name: str, path: Path) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where a value is missing.

    Raises
    ------
    SourceFaultError
        B047: a value that is no number.
    """
    found = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        try:
            found[i] = float(value)
        except ValueError:
            if is_missing(value):
                continue
            what = f"column {name!r:.60}: {value!r:.60} in row {i + 1:,} is no number"
            raise SourceFaultError("B047", path.name, what, "mend the column") from None
    # An infinite coordinate is no place either.
    found[np.isinf(found)] = np.nan
    return found


def read_positions(preview: Preview, split_by: str | None = None) -> Positions:
    """Read a table of positions.

    Parameters
    ----------
    preview
        The table.
    split_by
        The column that tells its sections apart, where the user names one.

    Raises
    ------
    SourceFaultError
        B046: no columns of coordinates. B047: a coordinate that is no number, or a tissue mark
        other than 0 and 1. B022, B074: the table is malformed.
    """
    roles = (
        _headless(preview) if preview.names is None else _by_name(preview, preview.names, split_by)
    )
    columns = read_columns(preview, roles.wanted())
    names = preview.names or tuple(f"column {i + 1}" for i in range(preview.n_fields))
    return _gather(preview.path, roles, columns, names)


def positions_of_rows(
    preview: Preview, leads: Sequence[list[str]], names: Sequence[str]
) -> Positions | None:
    """Return the coordinates among the leading columns of a count table, if it has any."""
    array, xy = find_array(names), find_position(names)
    if array is None and xy is None:
        return None
    tissue, depth = find(names, TISSUE), find_depth(names)
    roles = _Roles(array=array, xy=xy, tissue=tissue, depth=depth)
    return _gather(preview.path, roles, {i: leads[i] for i in roles.wanted()}, names)


def _gather(
    path: Path, roles: _Roles, columns: dict[int, list[str]], names: Sequence[str]
) -> Positions:
    def numbers(i: int) -> NDArray[np.float64]:
        return to_numbers(columns[i], names[i], path)

    def points(pair: Pair | None) -> NDArray[np.float64] | None:
        return None if pair is None else np.stack([numbers(pair.x), numbers(pair.y)], axis=1)

    array, xy = points(roles.array), points(roles.xy)
    ids = [(tuple(names[i] for i in own), join_ids([columns[i] for i in own])) for own in roles.ids]
    tissue, depth = roles.tissue, roles.depth
    return Positions(
        path=path,
        n_rows=len(next(iter(columns.values()))),
        ids=make_keys(ids),
        keys=points(roles.keys),
        array=None if array is None else (array[:, 1].copy(), array[:, 0].copy()),
        xy=xy,
        unit="pixel" if roles.xy is None else roles.xy.unit,
        in_tissue=None if tissue is None else read_marks(columns[tissue], path.name, names[tissue]),
        sections=tuple((names[i], as_sections(columns[i])) for i in roles.sections),
        depth=None if depth is None else (names[depth], numbers(depth)),
    )


def join_ids(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return ids made of one or several columns, joined by ``_``."""
    if len(columns) == 1:
        return list(columns[0])
    return ["_".join(parts) for parts in zip(*columns, strict=True)]


def read_marks(values: Sequence[str], where: str, name: str) -> NDArray[np.bool_]:
    """Return marks of the tissue: 1 or True is on it, 0 or False is not.

    Parameters
    ----------
    values
        (N,) marks as text.
    where, name
        Table and column, for messages.

    Raises
    ------
    SourceFaultError
        B047: anything else.
    """
    texts = [_TRUTH.get(value.lower(), value) for value in values]
    marks = {text: _mark(text) for text in set(texts)}
    bad = [i for i, text in enumerate(texts) if marks[text] is None]
    if bad:
        column = f"column {name!r:.60}: " if name else ""
        what = (
            f"{column}{len(bad):,} of {len(texts):,} marks are neither 0 nor 1 "
            f"(first: {values[bad[0]]!r:.40} in row {bad[0] + 1:,})"
        )
        fix = "mark spots on the tissue by 1, others by 0"
        raise SourceFaultError("B047", where, what, fix)
    return np.asarray([marks[text] for text in texts], np.bool_)


def _mark(text: str) -> bool | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number == 1 if number in (0, 1) else None


def _headless(preview: Preview) -> _Roles:
    """Return what the columns mean by their number: (x, y), (id, x, y), or as Space Ranger has."""
    n = preview.n_fields
    if n == _SPACERANGER:
        # barcode, in_tissue, array_row, array_col, pxl_row, pxl_col
        array = Pair(x=3, y=2, unit="array", name="array_col")
        xy = Pair(x=5, y=4, unit="pixel", name="pxl_col")
        return _Roles(ids=((0,),), tissue=1, array=array, xy=xy)
    if n not in (2, 3):
        what = f"positions without header have 2, 3 or 6 columns, this table has {n}"
        fix = "give it a header that names its columns, such as barcode, x, y"
        raise SourceFaultError("B046", preview.path.name, what, fix)
    xy = Pair(x=n - 2, y=n - 1, unit="pixel", name="x")
    return _Roles(ids=() if n == 2 else ((0,),), xy=xy)


def _by_name(preview: Preview, names: Sequence[str], split_by: str | None) -> _Roles:
    keys, array, xy = find_keys(names), find_array(names), find_position(names)
    if xy is None and array is None:
        what = f"no columns of coordinates; columns: {', '.join(names[:12])!r:.300}"
        fix = "name them x, y (or pixel_x, pixel_y; array_row, array_col)"
        raise SourceFaultError("B046", preview.path.name, what, fix)
    tissue = find(names, TISSUE)
    ids = key_columns(preview, no_genes(names))
    return _Roles(
        ids=tuple(ids),
        keys=keys,
        array=array,
        xy=xy,
        tissue=tissue,
        sections=section_places(names, split_by),
        depth=find_depth(names),
    )
