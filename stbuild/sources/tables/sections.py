"""Which rows of a table of labels belong to a section, where one table holds several.

A column tells, of the usual name or of any other where ids repeat; so does the number that
``spaceranger aggr`` puts behind the barcodes of each sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import find_ids, known_columns
from stbuild.sources.tables.ids import endings_of
from stbuild.sources.tables.labels import LabelTable, row_keys, section_columns


@dataclass(frozen=True, kw_only=True)
class SectionRows:
    """The rows of one section."""

    inside: NDArray[np.bool_]
    """(R,) whether a row belongs to it."""
    column: int | None = None
    """The column that tells sections apart, where one does."""
    by_ending: bool = False
    """Whether the number behind the barcodes tells."""

    @property
    def told(self) -> bool:
        """Whether anything tells sections apart."""
        return self.column is not None or self.by_ending


def rows_of_section(table: LabelTable, section: str | None, name: str | None = None) -> SectionRows:
    """Return which rows belong to the section: all of them where no column tells.

    Parameters
    ----------
    table
        The labels.
    section
        What the table calls the section, where the user says so.
    name
        The slice's name, which may be that of the section too. A column that is not called as
        those of sections are is believed only if ids repeat from section to section.

    Raises
    ------
    SourceFaultError
        B076: the table tells sections apart by a column, but has not this one; or several columns
        hold it.
    """
    everything = np.ones(table.n_rows, bool)
    wanted = name if section is None else section
    if wanted is None:
        return SectionRows(inside=everything)
    named = [i for i in section_columns(table) if i != table.label]
    found = [i for i in named if wanted in table.columns[i]][:1]
    if not found and (section is not None or _ids_repeat(table, everything)):
        found = _other_columns(table, wanted)
    if found:
        return SectionRows(inside=_equal(table, found[0], wanted), column=found[0])
    if section is not None and (rows := _rows_of_ending(table, section)) is not None:
        return SectionRows(inside=rows, by_ending=True)
    if not named or not _ids_repeat(table, everything):
        return SectionRows(inside=everything)
    values = sorted(set(table.columns[named[0]]))
    what = (
        f"no rows of section {wanted!r:.60}; column {table.names[named[0]]!r:.60} has "
        f"{len(values):,}: {', '.join(repr(value) for value in values[:8]):.300}"
    )
    fix = "name the section as the table does: column `section` of the manifest"
    raise SourceFaultError("B076", table.preview.path.name, what, fix)


def _other_columns(table: LabelTable, wanted: str) -> list[int]:
    """Return the column of any other name that holds the section, and in it each id once."""
    names = table.names if table.preview.names is not None else ()
    taken = known_columns(table.names) | {0, table.label, *find_ids(names), *section_columns(table)}
    found = [
        i
        for i, values in table.columns.items()
        if i not in taken and wanted in values and not _ids_repeat(table, _equal(table, i, wanted))
    ]
    if len(found) < 2:
        return found
    listed = " and ".join(repr(table.names[i]) for i in found[:3])
    what = f"section {wanted!r:.60} stands in the columns {listed:.200}"
    fix = "call the column that tells the sections apart `section`"
    raise SourceFaultError("B076", table.preview.path.name, what, fix)


def _equal(table: LabelTable, column: int, wanted: str) -> NDArray[np.bool_]:
    return np.asarray([value == wanted for value in table.columns[column]], bool)


def _ids_repeat(table: LabelTable, inside: NDArray[np.bool_]) -> bool:
    keys = row_keys(table, np.ones(table.n_rows, bool))
    if not keys:
        return False
    ids = [keys[0].values[i] for i in np.flatnonzero(inside).tolist()]
    return len(set(ids)) < len(ids)


def _rows_of_ending(table: LabelTable, section: str) -> NDArray[np.bool_] | None:
    """Return the rows whose barcodes end with the number of a sample, if several samples do."""
    keys = row_keys(table, np.ones(table.n_rows, bool))
    found = [ending for _, ending in endings_of(keys[0].values)] if keys else []
    if section not in found or len({ending for ending in found if ending}) < 2:
        return None
    return np.asarray([ending == section for ending in found], bool)


def require_one_sample(ids: Sequence[str], barcodes: Sequence[str], where: str) -> None:
    """Refuse ids of several samples for the spots of one that was read by itself.

    The barcodes of every run end with ``-1``; where runs were joined, those of the second sample
    end with ``-2``. So ``-1`` in a table of both may be another sample's.

    Parameters
    ----------
    ids
        Ids of the table, of this section alone if something names it.
    barcodes
        Spots of the slice.
    where
        The table, for messages.

    Raises
    ------
    SourceFaultError
        B056: all spots end with -1, and the table has the same barcodes under several endings.
    """
    own = endings_of(barcodes)
    if {ending for _, ending in own} != {"1"}:
        return
    endings: dict[str, set[str]] = {stem: set() for stem, _ in own}
    for stem, ending in endings_of(ids):
        if stem in endings:
            endings[stem].add(ending)
    several = [stem for stem, found in endings.items() if len(found) > 1]
    if not several:
        return
    first = several[0]
    named = ", ".join(f"{first:.60}-{ending}" for ending in sorted(endings[first])[:5])
    what = (
        f"{len(several):,} spots stand in it as barcodes of several samples (first: {named}): "
        "those of the slice all end with -1, as every sample by itself does"
    )
    fix = (
        "say which number the table gives this sample: column `section` of the manifest; or give "
        "the labels of this sample alone"
    )
    raise SourceFaultError("B056", where, what, fix)
