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
from stbuild.sources.tables.columns import GENE_IDS, IDS, find_array, find_position, fold
from stbuild.sources.tables.ids import is_spot
from stbuild.sources.tables.text import decode, read_lines
from stbuild.sources.values import is_missing

_DELIMITERS: Final = ("\t", ";", ",", " ")
_BYTES: Final = 2**20
_LINES: Final = 50


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


def read_preview(path: Path) -> Preview:
    """Look at the first lines of a table.

    Raises
    ------
    SourceFaultError
        B002 to B004, B074: damaged or not text. B022: no delimiter is found, as in a list.
    """
    numbers, lines = _first_lines(path)
    if not lines:
        fix = "get it again"
        raise SourceFaultError("B002", path.name, "the file has blank lines alone", fix)
    delimiter = _find_delimiter(lines)
    fields = [tuple(split_fields(line, delimiter)) for line in lines]
    if max(map(len, fields)) < 2:
        what = f"not a table: one field per line (first: {lines[0][:40]!r})"
        fix = "give a table with tabs, commas, semicolons or spaces between the fields"
        raise SourceFaultError("B022", path.name, what, fix)
    first, rest = fields[0], fields[1:]
    n = len(rest[0]) if rest else len(first)
    if rest and len(first) == n - 1:
        first = ("", *first)
    elif not _is_header(first, rest):
        return Preview(path=path, delimiter=delimiter, names=None, rows=tuple(fields), n_header=0)
    return Preview(
        path=path, delimiter=delimiter, names=first, rows=tuple(rest), n_header=numbers[0]
    )


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
    name = fold(first[:1])[0]
    if name in IDS or name in GENE_IDS or find_position(first) or find_array(first):
        return True
    # A single number may be a gene that a spreadsheet has spoiled (2.31E+19).
    if 2 * sum(is_number(value) for value in first[1:]) >= len(first) - 1:
        return False
    if any(is_number(value) for row in rest for value in row[1:]):
        return True
    return not is_spot(first[0])
