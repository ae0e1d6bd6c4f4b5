"""Manifests and sample sheets as text: lines, columns and cells, before anyone asks what they mean.

What is wrong with a sheet is gathered, so that whoever reads it can name everything at once.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.paths import look_at
from stbuild.corpus.storage import read_file
from stbuild.corpus.toml import parse_toml

_MOST_BYTES: Final = 64 << 20
_REQUIRED: Final = ("slice", "path")
_OTHER_MARKS: Final = {";": "semicolons", "\t": "tabs"}
"""What else spreadsheets put between cells."""


class SheetRow(NamedTuple):
    """One row of a sheet."""

    line: int
    """Line of the file at which it starts, the first being 1."""
    cells: dict[str, str]
    """What its cells hold, by column; empty ones are left out."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read the TOML file of a manifest.

    Raises
    ------
    BadInputError
        A missing or unreadable file, or no TOML.
    """
    try:
        return parse_toml(_read_text(path, "manifest"))
    except ValueError as error:
        what = f"not valid TOML: {error}"
        raise _bad("B111", "manifest", path, what, "correct the line") from None


def read_rows(sheet: Path, known: Sequence[str], problems: list[Problem]) -> Iterator[SheetRow]:
    """Yield the rows of a sample sheet that fit its header.

    Parameters
    ----------
    sheet
        The file (CSV).
    known
        Names that columns may have.
    problems
        Everything wrong with header and rows is appended here. A row is yielded all the same for
        what its other columns say, until all columns are known by name.

    Raises
    ------
    BadInputError
        A missing or unreadable file.
    """
    header: list[str] | None = None
    absent: dict[str, str] = {}
    for line, row in _read_lines(sheet, problems):
        values = [cell.strip() for cell in row]
        if header is None:
            header = values
            problems += _header_problems(header, known, sheet)
            # A column that is missing is told once, and not in every row.
            absent = {name: "-" for name in _REQUIRED if name not in header}
        elif len(row) != len(header):
            what = f"{len(row)} cells, the header has {len(header)}"
            where = row_place(sheet, line)
            problems.append(sheet_problem(f"line {line}", where, what, "mend the row"))
        else:
            pairs = zip(header, values, strict=True)
            yield SheetRow(line, {k: v for k, v in pairs if v and k in known} | absent)
    if header is None:
        problems += _header_problems([], known, sheet)


def row_place(sheet: Path, line: int) -> str:
    """Return where a row stands, for messages."""
    return f"{sheet}:line {line}"


def sheet_problem(subject: str, where: object, what: str, fix: str) -> Problem:
    """Return a problem of a sample sheet."""
    return Problem(code="B022", subject=subject, where=str(where), what=what, fix=fix)


def _read_lines(sheet: Path, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold anything, each with the line that it starts at."""
    reader = csv.reader(io.StringIO(_read_text(sheet, "sample sheet")), strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        where, what = row_place(sheet, line), f"not CSV: {error}"
        problems.append(sheet_problem("sample sheet", where, what, "correct it"))


def _header_problems(header: list[str], known: Sequence[str], sheet: Path) -> Iterable[Problem]:
    for mark, name in _OTHER_MARKS.items():
        if len(header) == 1 and set(header[0].split(mark)) & set(_REQUIRED):
            what = f"its cells are parted by {name}, where commas are expected"
            yield sheet_problem("sample sheet", sheet, what, "save it as CSV, with commas")
            return
    for name, times in Counter(header).items():
        if times > 1:
            yield sheet_problem(f"column '{name}'", sheet, f"stands {times} times", "keep one")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean '{near[0]}'?" if near else f"known columns: {', '.join(known)}"
            yield sheet_problem(f"column '{name}'", sheet, "unknown column", fix)
    for name in _REQUIRED:
        if name not in header:
            yield sheet_problem(f"column '{name}'", sheet, "missing", "add it; it is required")


def _read_text(path: Path, kind: str) -> str:
    if not (look := look_at(path)).is_file:
        raise _bad("B001", kind, path, look.fault or "not a regular file", "check the path")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise _bad("B022", kind, path, f"{size:,} bytes, at most 64 MiB are read", "split it")
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad("B022", kind, path, f"not UTF-8: {error.reason}", "save it as UTF-8") from None


def _bad(code: str, kind: str, path: Path, what: str, fix: str) -> BadInputError:
    subject = f"{kind} '{path.name}'"
    return BadInputError(Problem(code=code, subject=subject, where=str(path), what=what, fix=fix))
