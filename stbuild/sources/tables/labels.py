"""A table of labels: which column holds them, which name the spots and the sections.

Nothing is known of spots here; they are joined in :mod:`stbuild.sources.labels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import (
    LABELS,
    SECTIONS,
    Pair,
    find,
    find_id,
    find_ids,
    fold,
    is_vague,
    known_columns,
)
from stbuild.sources.tables.keys import Key, key_columns, make_keys, sure_key
from stbuild.sources.tables.positions import join_ids, read_columns, to_numbers
from stbuild.sources.tables.preview import Preview, read_preview

_MOST_COLUMNS: Final = 500


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The label table, all of it as text."""

    preview: Preview
    names: tuple[str, ...]
    """Names of the columns; ``column 1`` and so on where there is no header."""
    columns: dict[int, list[str]]
    label: int
    """The column with the labels."""

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return len(self.columns[self.label])

    def numbers(self, pair: Pair) -> NDArray[np.float64]:
        """Return two columns as (R, 2) numbers, NaN where a row has none."""
        path = self.preview.path
        return np.stack(
            [to_numbers(self.columns[i], self.names[i], path) for i in (pair.x, pair.y)], axis=1
        )


def read_label_table(path: Path, column: str | None) -> LabelTable:
    """Read a table of labels.

    Parameters
    ----------
    path
        The table.
    column
        Column with the labels, as in :func:`stbuild.sources.labels.join_labels`.

    Raises
    ------
    SourceFaultError
        B076: no such column, or several that may be meant. Damage of the file.
    """
    preview = read_preview(path)
    n = preview.n_fields
    if n > _MOST_COLUMNS:
        what = f"{n:,} columns are no table of labels"
        raise SourceFaultError("B076", path.name, what, "give a table of ids and labels")
    names = preview.names or tuple(f"column {i + 1}" for i in range(n))
    columns = read_columns(preview, range(n))
    if not columns[0]:
        what = "the table has a header and nothing else"
        raise SourceFaultError("B076", path.name, what, "give a table of ids and labels")
    label = _label_column(preview, names, column)
    return LabelTable(preview=preview, names=names, columns=columns, label=label)


def _label_column(preview: Preview, names: Sequence[str], column: str | None) -> int:
    """Return the column with the labels: the one that was named, or the only one it can be."""
    if column is not None and preview.names is not None:
        if names.count(column) == 1:
            return names.index(column)
        times = "twice" if column in names else "not"
        raise _which(preview, names, f"label column {column!r:.60} stands {times} in the table")
    if column is not None and column.isdecimal() and 1 <= int(column) <= len(names):
        return int(column) - 1
    plain = find(names, LABELS[:2])
    if plain is not None:
        return plain
    usual = [i for i, name in enumerate(fold(names)) if name in LABELS]
    others = _others(preview, names)
    text = [i for i in others if not preview.numeric(i)]
    for found in [usual] if usual else [text, others]:
        if len(found) == 1:
            return found[0]
    if preview.names is None and others:
        return others[-1]
    raise _which(preview, names, "cannot tell which column holds the labels")


def _others(preview: Preview, names: Sequence[str]) -> list[int]:
    """Return the columns that are neither ids, coordinates nor sections."""
    own, vague = find_id(names), {i for i, name in enumerate(fold(names)) if is_vague(name)}
    taken = {0 if own is None else own, *vague, *known_columns(names)}
    if preview.names is not None:
        taken |= {i for i, name in enumerate(fold(names)) if name in SECTIONS}
    return [i for i in range(len(names)) if i not in taken]


def _which(preview: Preview, names: Sequence[str], what: str) -> SourceFaultError:
    listed = ", ".join(repr(name) for name in names[:12])
    fix = "name one with --label; by its number from 1 where the table has no header"
    return SourceFaultError("B076", preview.path.name, f"{what}; columns: {listed:.400}", fix)


def row_keys(table: LabelTable, inside: NDArray[np.bool_]) -> tuple[Key, ...]:
    """Return the columns that may hold the ids of the rows, the likeliest first.

    A table without a column that is called so has them in its first that is nothing else.

    Parameters
    ----------
    table
        The labels.
    inside
        (R,) rows of the section; ids of an unusual name need to differ among these alone.
    """
    preview, names = table.preview, table.names
    taken = known_columns(names) | {table.label}
    usual = find_ids(names) if preview.names is not None else []
    if usual:
        columns = key_columns(preview, taken | set(section_columns(table)))
        return make_keys([_values(table, own) for own in columns], inside)
    free = [i for i in range(len(names)) if i not in taken]
    first = [i for i in free if i not in section_columns(table)] or free
    keys = [sure_key(names[i], table.columns[i]) for i in first[:1]]
    others = key_columns(preview, taken | {*first[:1], *section_columns(table)})
    return (*keys, *make_keys([_values(table, own) for own in others], inside))


def section_columns(table: LabelTable) -> list[int]:
    """Return the columns that tell sections apart by their names."""
    return [i for i, name in enumerate(fold(table.names)) if name in SECTIONS]


def _values(table: LabelTable, own: Sequence[int]) -> tuple[tuple[str, ...], list[str]]:
    columns = [table.columns[i] for i in own]
    return tuple(table.names[i] for i in own), join_ids(columns)
