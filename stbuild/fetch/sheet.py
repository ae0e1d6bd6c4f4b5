"""The sample sheet of a manifest as `stbuild fetch` reads it: where sources are.

The other columns are :mod:`stbuild.manifests.manifest`' business; here they are only known by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus.documents import as_error, read_config
from stbuild.corpus.errors import BadInputError, BadUsageError, Problem
from stbuild.manifests.manifest import ManifestDocument, known_columns
from stbuild.manifests.rows import SourceRow
from stbuild.manifests.sheets import SheetRow, read_rows, read_toml, row_place, sheet_problem

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

    line: int
    """Line of the sheet at which it starts."""
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
    value = read_toml(manifest)
    document = read_config(ManifestDocument, value, str(manifest))
    path = manifest.parent / document.samples
    problems: list[Problem] = []
    rows = tuple(_read_rows(path, problems))
    if refusal := as_error(problems, BadInputError):
        raise refusal
    return Sheet(name=document.name, manifest=manifest, path=path, rows=rows)


def _read_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    for row in read_rows(path, known_columns(), problems):
        try:
            yield _read_row(row, path)
        except BadUsageError as error:
            problems += error.problems


def _read_row(row: SheetRow, path: Path) -> Row:
    cells, where = row.cells, row_place(path, row.line)
    missing = [
        sheet_problem(f"line {row.line}", where, f"no {name}", "fill the cell")
        for name in ("slice", "path")
        if name not in cells
    ]
    if missing:
        raise BadUsageError(*missing)
    own = {name: text for name, text in cells.items() if name in SourceRow.model_fields}
    source = read_config(SourceRow, own, where)
    places: dict[str, str] = {name: cells[name] for name in _PLACES if name in cells}
    return Row(line=row.line, slice_id=cells["slice"], places=places, source=source)
