"""Which table of a folder holds counts, positions or labels: told by content, never by file name.

A choice that is not clear is refused, and the options that decide it are named.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stbuild.corpus.paths import look_at
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import (
    LABELS,
    find,
    find_array,
    find_composite,
    find_id,
    find_ids,
    find_position,
    fold,
    no_genes,
)
from stbuild.sources.tables.ids import is_coordinates, is_spot, share
from stbuild.sources.tables.preview import Preview, is_number, read_preview
from stbuild.sources.values import is_missing

Role = Literal["counts", "positions", "labels", "other"]

_SEVERAL: Final = 2
"""Columns of numbers with commas from which on a table is one of counts that are spelled so."""
_MARKED: Final = re.compile(r"-?\d+,\d+|-?\d{1,3}([,'\u2019 \u00a0\u202f]\d{3})+([.,]\d+)?")
"""A number that a spreadsheet has written for people."""
_MANY: Final = 50
"""Columns of whole numbers beside coordinates from which on they are counts."""
_MOLECULES: Final = (
    {"midcount"}, {"midcounts"}, {"umicount"}, {"global_x", "gene"}, {"x_global_px", "target"},
    {"feature_name", "x_location"},
)  # fmt: skip
"""Names that together mark a list of molecules, one per row."""
_SUFFIXES: Final = (".tsv", ".csv", ".tab", ".txt")
_MOST_FILES: Final = 500


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a folder that belong together."""

    counts: Preview
    positions: Preview | None
    passed_over: tuple[Path, ...] = ()
    """Tables that look like counts but for values that are not whole."""


def is_table_name(path: Path, *, text: bool = True) -> bool:
    """Tell whether a file is called like a table, packed or not; with `text`, like any text."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(_SUFFIXES) and (text or not name.endswith(".txt"))


def leading_columns(preview: Preview) -> int:
    """Return how many columns stand before the values: ids, names, known columns of no genes."""
    names = preview.names or ("",) * preview.n_fields
    known = no_genes(names) | set(find_composite(names) or ()) | set(find_ids(names))
    n = 1
    while n < preview.n_fields and (n in known or not preview.numeric(n)):
        n += 1
    return n


def role_of(preview: Preview) -> Role:
    """Return what a table holds."""
    if preview.names is None:
        return _headless(preview)
    if is_molecules(preview):
        return "other"
    if _holds_counts(preview):
        return "counts"
    return _with_header(preview)


def is_molecules(preview: Preview) -> bool:
    """Tell whether a table lists molecules, one per row, as GEM and transcript files do."""
    names = set(fold(preview.names or ()))
    return any(marks <= names for marks in _MOLECULES)


def has_labels(preview: Preview) -> bool:
    """Tell whether a table with coordinates has a column of labels, or of other text, too."""
    if preview.names is None:
        return False
    own = find_id(preview.names)
    text = [i for i in range(preview.n_fields) if i != own and not preview.numeric(i)]
    return bool(text) or find(preview.names, LABELS) is not None


def _headless(preview: Preview) -> Role:
    n, numeric = preview.n_fields, [preview.numeric(i) for i in range(preview.n_fields)]
    if n in (2, 3) and all(numeric[n - 2 :]):
        return "positions"
    if n == 6 and all(numeric[1:]) and {*map(str.strip, preview.column(1))} <= {"0", "1"}:
        return "positions"
    if not all(numeric) and any(map(is_spot, preview.column(0))):
        return "labels"
    return "other"


def holds_values(preview: Preview) -> bool:
    """Tell whether a table with coordinates or labels has a column of whole numbers besides.

    That will do for a table that the user named; in a folder it takes more to be counts.
    """
    return preview.names is not None and any(_whole(preview, i) for i in _value_columns(preview))


def _value_columns(preview: Preview) -> list[int]:
    names = preview.names or ()
    return sorted(set(range(leading_columns(preview), preview.n_fields)) - no_genes(names))


def _holds_counts(preview: Preview) -> bool:
    values = _value_columns(preview)
    if len(values) < 2 or not all(preview.numeric(i) for i in values):
        return False
    if find_position(preview.names or ()) is not None:
        return len(values) >= _MANY and all(_whole(preview, i) for i in values)
    return True


def _whole(preview: Preview, i: int) -> bool:
    return all(is_number(v) and float(v).is_integer() for v in preview.column(i))


def _with_header(preview: Preview) -> Role:
    names = preview.names or ()
    own = find_id(names)
    composite = find_composite(names)
    if find_position(names) is not None or find_array(names) is not None:
        if own is None and composite is None and "fov" in fold(names):
            return "other"  # where the fields of view lie, not the cells
        if own is not None and composite is None and _repeats(preview.column(own)):
            return "other"  # outlines: many rows per cell
        return "positions"
    return "labels" if preview.rows and has_labels(preview) else "other"


def _repeats(values: Sequence[str]) -> bool:
    known = [value for value in values if not is_missing(value)]
    return len(set(known)) < len(known)


def choose_tables(folder: Path, positions: Path | None) -> Tables:
    """Return the count table of a folder and the positions that belong to it.

    Parameters
    ----------
    folder
        Where to look; folders inside it are not entered.
    positions
        The table of positions that the user named, inside or outside the folder; None looks for
        one.

    Raises
    ------
    SourceFaultError
        B023: no counts. B007: several tables of counts, or of positions. Damage of any table.
    """
    found, faults = _look(folder)
    counts = [p for p, role in found if role == "counts" and not _same(p.path, positions)]
    listed = _describe(found)
    if not counts:
        for preview, _ in found:
            require_plain_numbers(preview, _SEVERAL)
        what = f"no counts: the folder holds {listed}"
        if faults:
            what += f"; passed over {faults[0].field:.60}: {faults[0].what:.200}"
        fix = "give a folder with a table of counts, spots x genes or genes x spots"
        if both := [p.path.name for p, _ in found if holds_values(p)]:
            fix = f"if {both[0]:.60} holds counts beside them, give that file itself"
        raise SourceFaultError("B023", "", what, fix)
    # Numbers about cells, such as an embedding, have the form of counts but for their fractions.
    whole = [p for p in counts if all(_whole(p, i) for i in _value_columns(p))]
    passed_over = [p.path for p in counts if p not in whole] if len(whole) == 1 else []
    counts = whole if passed_over else counts
    if len(counts) > 1:
        what = f"{len(counts)} tables look like counts; the folder holds {listed}"
        fix = "give the table of raw counts itself as the path, with --positions FILE beside it"
        raise SourceFaultError("B007", "", what, fix)
    if positions is not None:
        return Tables(
            counts=counts[0],
            positions=read_preview(positions),
            passed_over=tuple(passed_over),
        )
    places = [p for p, role in found if role == "positions"]
    plain = [p for p in places if not has_labels(p)]
    if not plain and not _names_places(counts[0]):
        plain = places
    if len(plain) > 1:
        names = ", ".join(p.path.name for p in plain)
        what = f"{len(plain)} tables look like positions: {names}"
        raise SourceFaultError("B007", "", what, "say which with --positions FILE")
    return Tables(
        counts=counts[0],
        positions=plain[0] if plain else None,
        passed_over=tuple(passed_over),
    )


def _names_places(counts: Preview) -> bool:
    """Tell whether the ids of the spots are coordinates, so that labels need not place them."""
    axes = (counts.column(0), (counts.names or ())[1:])
    return any(share(axis, is_coordinates) >= 0.5 for axis in axes)


def require_plain_numbers(preview: Preview, least: int = 1) -> None:
    """Refuse a table whose numbers have commas in them, which makes them text.

    Parameters
    ----------
    preview
        What may be a table of counts.
    least
        Columns of such numbers from which on it is refused.

    Raises
    ------
    SourceFaultError
        B033: thousands are set off, or fractions follow a comma.
    """
    found = []
    for i in range(1, preview.n_fields) if preview.names is not None else ():
        values = [value.strip() for value in preview.column(i)]
        marked = [value for value in values if _MARKED.fullmatch(value)]
        if marked and all(value in marked or is_number(value) for value in values):
            found.append((i, marked[0]))
    if len(found) < least:
        return
    i, value = found[0]
    what = (
        f"{value!r:.60} in column {(preview.names or ())[i]!r:.60} is no plain number: "
        "it has a mark of thousands, or a comma for the point"
    )
    fix = "write numbers plainly: 1003, not 1,003, and 1.5, not 1,5"
    raise SourceFaultError("B033", preview.path.name, what, fix)


def _look(folder: Path) -> tuple[list[tuple[Preview, Role]], list[SourceFaultError]]:
    """Return the tables of a folder and what each holds, and why others are none."""
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except PermissionError:
        fix = "make it readable for this user"
        raise SourceFaultError("B011", "", "the folder may not be read", fix) from None
    if len(files) > _MOST_FILES:
        what = f"{len(files):,} files in one folder, at most {_MOST_FILES} are looked at"
        fix = "give the table of counts itself, with --positions FILE"
        raise SourceFaultError("B007", "", what, fix)
    found, faults = [], []
    for path in files:
        try:
            preview = read_preview(path)
        except SourceFaultError as fault:
            # A picture or a list may lie beside the tables; a broken table must not go unseen.
            if is_table_name(path) and fault.code != "B022":
                raise
            if is_table_name(path, text=False):
                faults.append(fault)
            continue
        found.append((preview, role_of(preview)))
    return found, faults


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and look_at(other).fault is None and path.samefile(other)


def _describe(found: Sequence[tuple[Preview, Role]]) -> str:
    parts = []
    for preview, role in found:
        labelled = " with labels" if role == "positions" and has_labels(preview) else ""
        parts.append(f"{preview.path.name} ({role}{labelled})")
    more = f" and {len(parts) - 10} more" if len(parts) > 10 else ""
    return (", ".join(parts[:10]) + more) or "no table"
