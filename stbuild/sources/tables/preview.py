"""The first lines of a text table: which delimiter, whether a header, how many fields.

Only as much is read as is needed to tell. What the columns mean is decided elsewhere.
"""

import csv
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import (
    GENE_IDS,
    GENE_NAMES,
    IDS,
    find_array,
    find_position,
    fold,
)
from stbuild.sources.tables.ids import is_spot
from stbuild.sources.tables.text import decode, read_lines
from stbuild.sources.values import is_missing

_DELIMITERS: Final = ("\t", ";", ",", " ")
_BYTES: Final = 2**20
_LINES: Final = 50
_FIX: Final = "name every column in the header, and end the rows without a delimiter"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How a table is written, and its first rows."""

    path: Path
    delimiter: str
    """Tab, semicolon, comma, or space for any run of spaces."""
    names: tuple[str, ...] | None
    """Header, one name per field; None where there is none. A header that lacks the name of the
    first column, as R writes it, has an empty one there."""
    rows: tuple[tuple[str, ...], ...]
    """First rows of data; they may be of different length."""
    n_header: int
    """Lines up to and including the header: blank ones before it, 0 where there is none."""
    trailing: bool = False
    """Whether every row ends with a delimiter, behind which there is no field."""

    @property
    def n_fields(self) -> int:
        """Fields per row."""
        return len(self.names) if self.names is not None else len(self.rows[0])

    def column(self, i: int) -> list[str]:
        """Return the first values of one column."""
        return [row[i] for row in self.rows if i < len(row)]

    def numeric(self, i: int) -> bool:
        """Tell whether most of the first values of a column are numbers, or missing."""
        values = self.column(i)
        return 2 * sum(is_number(value) or is_missing(value) for value in values) >= len(values)


def is_number(text: str) -> bool:
    """Tell whether a field is a number, NaN included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_fields(line: str, delimiter: str) -> list[str]:
    """Return the fields of one line, quotes undone.

    Raises
    ------
    SourceFaultError
        B022: a quoted field that is too long to be one.
    """
    if delimiter == " ":
        line = line.strip()
    if '"' not in line:
        return line.split() if delimiter == " " else line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        what = f"not a table: {error} in {line[:40]!r}"
        raise SourceFaultError("B022", "", what, "mend the quotes of that line") from None


def cut_end(line: bytes, preview: Preview, number: int) -> bytes:
    """Return a row without the delimiter at its end, where the rows of the table have one.

    Raises
    ------
    SourceFaultError
        B022: this row has none.
    """
    if not preview.trailing:
        return line
    delimiter = preview.delimiter.encode()
    if line.endswith(delimiter):
        return line.removesuffix(delimiter)
    what = f"line {number:,} does not end with {preview.delimiter!r} as the rows before it do"
    raise SourceFaultError("B022", preview.path.name, what, "end all rows alike")


def read_preview(path: Path) -> Preview:
    """Look at the first lines of a table.

    Raises
    ------
    SourceFaultError
        B002 to B004, B074: damaged or not text. B022: no delimiter is found, as in a list; a
        comment stands before the header; or the header is a field shorter than the rows, and it is
        not clear which column has no name.
    """
    numbers, lines = _first_lines(path)
    if not lines:
        fix = "get it again"
        raise SourceFaultError("B002", path.name, "the file has blank lines alone", fix)
    delimiter = _find_delimiter(lines)
    header, *below = (tuple(split_fields(line, delimiter)) for line in lines)
    _require_header(header, below, path, numbers[0])
    trailing = _ends_empty(header, below, lines, delimiter)
    if trailing:
        _require_no_row_names(header, below, path)
        below = [row[:-1] for row in below]
        header = header[: len(below[0])]
    if max(map(len, (header, *below))) < 2:
        what = f"not a table: one field per line (first: {lines[0][:40]!r})"
        fix = "give a table with tabs, commas, semicolons or spaces between the fields"
        raise SourceFaultError("B022", path.name, what, fix)
    n = len(below[0]) if below else len(header)
    if below and len(header) == n - 1:
        _require_row_names(header, below, path)
        header = ("", *header)
    elif not _is_header(header, below):
        rows = (header, *below)
        return Preview(
            path=path, delimiter=delimiter, names=None, rows=rows, n_header=0, trailing=trailing
        )
    return Preview(
        path=path,
        delimiter=delimiter,
        names=header,
        rows=tuple(below),
        n_header=numbers[0],
        trailing=trailing,
    )


def _require_header(
    header: Sequence[str], below: Sequence[Sequence[str]], path: Path, number: int
) -> None:
    """Refuse a comment or a title where the header should stand."""
    n = len(below[-1]) if below else 0
    comment = header[0].lstrip().startswith("#")
    if len(header) >= n - 1 and not (comment and len(header) > n > 1):
        return
    if not comment and any(len(row) != n for row in below):
        return  # the rows differ too, which is told where they are read
    kind = "a comment" if comment else "a title"
    what = (
        f"line {number:,} is {kind}, no header (first field: {header[0]!r:.60}): "
        f"it has {len(header)} fields, the last rows {n}"
    )
    fix = "remove the lines before the header, which names every column"
    raise SourceFaultError("B022", path.name, what, fix)


def _ends_empty(
    header: Sequence[str], below: Sequence[Sequence[str]], lines: Sequence[str], delimiter: str
) -> bool:
    """Tell whether all rows end with a delimiter that no name of the header stands over."""
    if delimiter == " " or not below or not all(line.endswith(delimiter) for line in lines[1:]):
        return False
    n = len(below[0])
    return len(header) == n - 1 or (len(header) == n and not header[-1].strip())


def _require_no_row_names(
    header: Sequence[str], below: Sequence[Sequence[str]], path: Path
) -> None:
    """Refuse rows that end empty where their first field may be a name as R writes it."""
    if len(header) == len(below[0]) or _names_ids(header):
        return
    first = [row[0] for row in below]
    numbers = all(map(is_number, first)) and not _in_order(first)
    if numbers or len(set(first)) < len(first):
        return
    what = (
        f"the header has {len(header)} names, the rows {len(below[0])} fields, of which the last "
        f"is empty and the first may be a name (first: {first[0]!r:.60})"
    )
    raise SourceFaultError("B022", path.name, what, _FIX)


def _require_row_names(header: Sequence[str], below: Sequence[Sequence[str]], path: Path) -> None:
    """Refuse a header a field shorter than the rows, unless R may have left the first name out.

    R leaves out the name of the rows alone: before a column that is called as ids are they are
    numbers or its own ids, before one of the names of genes their ids.
    """
    if not _names_ids(header):
        return
    first, second = ([row[i] for row in below if len(row) > i] for i in (0, 1))
    texts = not any(map(is_number, second)) and len(set(second)) == len(second)
    numbered = all(value.isdecimal() for value in first) or fold(header[:1])[0] in GENE_NAMES
    if first == second or (texts and numbered):
        return
    what = (
        f"the header has {len(header)} names (first: {header[0]!r:.60}), the rows "
        f"{len(below[0])} fields (first: {first[0]!r:.60}): it is not clear which has no name"
    )
    raise SourceFaultError("B022", path.name, what, _FIX)


def _names_ids(header: Sequence[str]) -> bool:
    """Tell whether the first name is one of ids, of spots or genes, and so not left out."""
    name = fold(header[:1])[0]
    return name in IDS or name in GENE_IDS


def _in_order(values: Sequence[str]) -> bool:
    return all(value == str(i) for i, value in enumerate(values, 1))


def _first_lines(path: Path) -> tuple[list[int], list[str]]:
    numbers, lines, n_bytes = [], [], 0
    with closing(read_lines(path)) as found:
        for number, line in enumerate(found, 1):
            if not line.strip():
                continue
            numbers.append(number)
            lines.append(decode(line, path, number))
            n_bytes += len(line)
            if len(lines) >= _LINES or (n_bytes >= _BYTES and len(lines) >= 3):
                break
    return numbers, lines


def _find_delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that parts all lines alike, into most fields; else the commonest.

    Spaces stand inside labels too, so they count only where nothing else parts the lines.
    """
    even, common = [], []
    for delimiter in _DELIMITERS:
        counts = [len(split_fields(line, delimiter)) for line in lines]
        n = counts[-1]
        if n > 1 and set(counts[1:]) <= {n} and counts[0] in (n, n - 1):
            even.append((delimiter != " ", n, delimiter))
        common.append((delimiter != " " and max(counts) > 1, sum(counts), delimiter))
    # max returns the first of equals, and the delimiters stand in order of preference.
    return max(even or common, key=lambda entry: entry[:2])[2]


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    if _names_ids(first) or find_position(first) or find_array(first):
        return True
    # A single number may be a gene that a spreadsheet has spoiled (2.31E+19).
    if 2 * sum(is_number(value) for value in first[1:]) >= len(first) - 1:
        return False
    if any(is_number(value) for row in rest for value in row[1:]):
        return True
    return not is_spot(first[0])
