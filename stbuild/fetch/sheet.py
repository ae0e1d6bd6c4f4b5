"""The sample sheet of a manifest as `stbuild fetch` reads it: where sources are.

The other columns are :mod:`stbuild.manifests`' business; here they are only known by name.
"""

import csv
import io
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from stbuild.config import GridConfig
from stbuild.corpus.documents import as_error, read_config
from stbuild.corpus.errors import BadInputError, BadUsageError, Problem
from stbuild.fetch.rows import SourceRow
from stbuild.manifests import ManifestDocument, SampleRow

_MOST_BYTES: Final = 64 << 20
_PLACES: Final = ("path", "positions", "labels_file")


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A manifest's sample sheet."""

    name: str
    """Name of the corpus."""
    manifest: Path
    path: Path
    """The sheet's own file; paths in it are relative to its folder."""
    rows: tuple["Row", ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: whose, which files, from where."""

    number: int
    """Line of the table, the header being line 1."""
    slice_id: str
    places: dict[str, str]
    """Paths by the column that names them, of path, positions and labels_file."""
    source: SourceRow


def read_sheet(manifest: Path) -> Sheet:
    """Read the sample sheet of a manifest.

    Raises
    ------
    BadInputError
        A missing or unreadable file, unknown columns, bad cells; all of them at once.
    BadUsageError
        Unknown keys of the manifest.
    """
    try:
        value = tomllib.loads(_read_text(manifest, "manifest"))
    except tomllib.TOMLDecodeError as error:
        what = f"not valid TOML: {error}"
        raise _bad("B111", "manifest", manifest, what, "correct the line") from None
    document = read_config(ManifestDocument, value, str(manifest))
    path = manifest.parent / document.samples
    problems: list[Problem] = []
    rows = tuple(_read_rows(path, problems))
    if refusal := as_error(problems, BadInputError):
        raise refusal
    return Sheet(name=document.name, manifest=manifest, path=path, rows=rows)


def _read_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_read_text(path, "sample sheet")), strict=True)
    try:
        header, *rows = [row for row in reader if any(cell.strip() for cell in row)] or [[]]
    except csv.Error as error:
        problems.append(_problem("sample sheet", path, f"not CSV: {error}", "correct it"))
        return
    header = [cell.strip() for cell in header]
    problems += _header_problems(header, path)
    if problems:
        return
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            what = f"{len(row)} cells, the header has {len(header)}"
            problems.append(_problem(f"row {number}", path, what, "mend the row"))
            continue
        cells = {k: v.strip() for k, v in zip(header, row, strict=True) if v.strip()}
        try:
            yield _read_row(cells, number, path)
        except BadUsageError as error:
            problems += error.problems


def _header_problems(header: list[str], path: Path) -> Iterable[Problem]:
    models = (SampleRow, SourceRow, GridConfig)
    known = list(dict.fromkeys(name for model in models for name in model.model_fields))
    for name, times in Counter(header).items():
        if times > 1:
            yield _problem(f"column '{name}'", path, f"stands {times} times", "keep one")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean '{near[0]}'?" if near else f"known columns: {', '.join(known)}"
            yield _problem(f"column '{name}'", path, "unknown column", fix)
    for name in ("slice", "path"):
        if name not in header:
            yield _problem(f"column '{name}'", path, "missing", "add it; it is required")


def _read_row(cells: dict[str, str], number: int, path: Path) -> Row:
    missing = [
        _problem(f"row {number}", path, f"no {name}", "fill the cell")
        for name in ("slice", "path")
        if name not in cells
    ]
    if missing:
        raise BadUsageError(*missing)
    own = {name: text for name, text in cells.items() if name in SourceRow.model_fields}
    source = read_config(SourceRow, own, f"{path}:row {number}")
    places: dict[str, str] = {name: cells[name] for name in _PLACES if name in cells}
    return Row(number=number, slice_id=cells["slice"], places=places, source=source)


def _read_text(path: Path, kind: str) -> str:
    if not path.is_file():
        raise _bad("B001", kind, path, "no such file", "check the path")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise _bad("B022", kind, path, f"{size:,} bytes, at most 64 MiB are read", "split it")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad("B022", kind, path, f"not UTF-8: {error.reason}", "save it as UTF-8") from None


def _problem(subject: str, path: Path, what: str, fix: str) -> Problem:
    return Problem(code="B022", subject=subject, where=str(path), what=what, fix=fix)


def _bad(code: str, kind: str, path: Path, what: str, fix: str) -> BadInputError:
    subject = f"{kind} '{path.name}'"
    return BadInputError(Problem(code=code, subject=subject, where=str(path), what=what, fix=fix))
