"""Spots of several sections or planes in one table: told apart by a column, never summed.

What a column of sections means for a slice is decided in
:func:`stbuild.sources.anndata_columns.require_part`, for AnnData and tables alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import SECTIONS, fold
from stbuild.sources.values import is_missing

Sections = tuple[str, Sequence[str]]
"""Name and values of a column that tells sections apart."""
Depth = tuple[str, NDArray[np.float64]]
"""Name and values of a column of z, NaN where a spot has none."""


def section_places(names: Sequence[str], split_by: str | None) -> tuple[int, ...]:
    """Return the columns that may tell sections apart: the one that is asked for, or the usual."""
    if split_by is not None:
        return (names.index(split_by),) if split_by in names else ()
    folded = fold(names)
    return tuple(folded.index(name) for name in SECTIONS if name in folded)


def as_sections(values: Sequence[str]) -> list[str]:
    """Return the values of a column of sections, empty where there is none."""
    return ["" if is_missing(value) else value for value in values]


def choose_sections(columns: Sequence[Sections], split_by: str | None) -> Sections | None:
    """Return the first column that tells sections apart: that has several values, or was asked for.

    Parameters
    ----------
    columns
        Name and (N,) values of each, empty where a spot has none.
    split_by
        The column that was asked for, if one was.
    """
    for name, values in columns:
        if name == split_by or (split_by is None and len(set(values) - {""}) > 1):
            return name, values
    return None


def require_one_plane(
    depth: Depth | None, sections: Sections | None, record: SliceRecord | None, where: str
) -> None:
    """Refuse spots at several depths, which x and y alone would put on top of each other.

    A file of which parts are read is judged part by part.

    Parameters
    ----------
    depth
        Name and (N,) values of the column of z, if there is one.
    sections
        The column that tells sections apart, if there is one.
    record
        Which section is asked for.
    where
        The table, for messages.

    Raises
    ------
    SourceFaultError
        B047: more than one z.
    """
    part = None if record is None else record.part
    listing = record is not None and record.split_by is not None and part is None
    if depth is None or listing:
        return
    name, values = depth
    if part is not None and sections is not None:
        values = values[np.asarray([value == part for value in sections[1]], bool)]
    found = np.unique(values[np.isfinite(values)])
    if found.size < 2:
        return
    listed = ", ".join(f"{value:g}" for value in found[:5].tolist())
    what = f"column {name!r:.60} puts the spots at {found.size:,} depths ({listed})"
    fix = f"each plane is a slice of its own: --split-by {name:.60}, or leave the column out"
    raise SourceFaultError("B047", where, what, fix)
