"""Input manifests: a TOML file with a CSV sample sheet, or a plain list of files.

Every problem of a manifest is reported at once, with line and column. No slice is opened here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from stbuild.config import GridConfig
from stbuild.corpus.documents import (
    Document,
    ShardConfig,
    SplitName,
    as_error,
    key_problems,
    read_config,
)
from stbuild.corpus.errors import BadInputError, BadUsageError, Problem
from stbuild.corpus.names import slugify
from stbuild.corpus.paths import look_at
from stbuild.manifests.rows import SourceRow
from stbuild.manifests.sheets import read_rows, read_toml, row_place
from stbuild.slices import SliceRecord

_RESULTS = "outs"
"""Space Ranger's results stand in <sample>/outs: the folder alone tells no samples apart."""


class ManifestDocument(Document):
    """The TOML file of a manifest."""

    name: str
    """Name of the corpus."""
    samples: str
    """Sample sheet (CSV), relative to the manifest."""
    description: str | None = None
    grid: dict[str, Any] = Field(default_factory=dict)
    """Keys of the grid configuration, for all slices."""
    shard: dict[str, Any] = Field(default_factory=dict)
    """Keys of the shard configuration."""


class SampleRow(Document):
    """One row of a sample sheet; an empty cell is None.

    Besides these columns, every key of the grid configuration may be one.
    """

    slice: str = Field(min_length=1)
    path: str = Field(min_length=1)
    split: SplitName = "train"
    donor: str | None = None
    section: str | None = None
    pair: str | None = None
    """Pair of adjacent sections: both stay on one side of a split."""
    species: str | None = None
    tissue: str | None = None
    platform: str | None = None
    licence: str | None = None
    positions: str | None = None
    """Table of coordinates, relative to the sheet."""
    labels_file: str | None = None
    """Table of labels, relative to the sheet."""
    split_by: str | None = None
    """Column of obs that tells the sections of the file apart: each becomes a slice."""
    part: str | None = None
    """The one section of the file that this row is."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The slices of a run and the configuration that came with them."""

    name: str
    records: tuple[SliceRecord, ...]
    grid: dict[str, Any] = field(default_factory=dict)
    shard: dict[str, Any] = field(default_factory=dict)


def read_inputs(inputs: Sequence[str]) -> Manifest:
    """Read one manifest (a ``.toml`` file), or take a list of slice files as it is.

    Raises
    ------
    BadInputError
        Everything wrong with the manifest or the list, at once.
    BadUsageError
        Unknown keys or values of the TOML file; a manifest among other files.
    """
    tomls = [path for path in inputs if path.endswith(".toml")]
    if tomls and len(inputs) > 1:
        problem = Problem(
            code="B101",
            subject=f"input '{tomls[0]}'",
            what=f"a manifest stands alone, but {len(inputs)} inputs were given",
            fix="give either one manifest or a list of slice files",
        )
        raise BadUsageError(problem)
    manifest = read_manifest(Path(tomls[0])) if tomls else _from_files(inputs)
    if not manifest.records:
        problem = Problem(
            code="B022",
            subject="inputs",
            what="no slices: the list or the sample sheet is empty",
            fix="name at least one file or folder, or one row",
        )
        raise BadInputError(problem)
    if error := as_error(_clashes(manifest.records), BadInputError):
        raise error
    return manifest


def _from_files(paths: Sequence[str]) -> Manifest:
    records = tuple(
        SliceRecord(
            name=(name := _slice_name(path)),
            slug=slugify(name),
            path=path,
            source_name=_published_name(path),
        )
        for path in paths
    )
    return Manifest(name="corpus", records=records)


def _published_name(path: str) -> str:
    """Return what documents call a path that is relative to nothing they know."""
    given = Path(path).absolute()
    in_sample = given.name == _RESULTS and given.parent.name
    return f"{given.parent.name}/{given.name}" if in_sample else given.name


def _slice_name(path: str) -> str:
    """Return the id of a slice given by its path alone: the name without its endings."""
    given = Path(path).absolute()
    if given.name == _RESULTS:
        given = given.parent
    if look_at(given).is_folder and given.suffix not in (".zarr", ".h5ad"):
        return given.name
    name = given.name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name.lstrip(".") else name


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and its sample sheet.

    Raises
    ------
    BadInputError
        A missing or unreadable file, or any bad row of the sheet; all of them at once.
    BadUsageError
        Unknown keys and values of the TOML file and its tables, all of them at once; an unknown
        key comes with the nearest known one.
    """
    value = read_toml(path)
    if refusal := as_error(_toml_problems(value, path), BadUsageError):
        raise refusal
    document = read_config(ManifestDocument, value, str(path))
    sheet = path.parent / document.samples
    records, problems = _read_sheet(sheet)
    if refusal := as_error(problems, BadInputError):
        raise refusal
    return Manifest(name=document.name, records=records, grid=document.grid, shard=document.shard)


def _toml_problems(value: dict[str, Any], path: Path) -> Iterable[Problem]:
    """Yield what is wrong with the keys of a manifest and of its tables, before any work."""
    yield from key_problems(ManifestDocument, value, str(path))
    for name, model in (("grid", GridConfig), ("shard", ShardConfig)):
        if isinstance(table := value.get(name, {}), dict):
            yield from key_problems(model, table, f"{path}: [{name}]")


def _read_sheet(sheet: Path) -> tuple[tuple[SliceRecord, ...], list[Problem]]:
    records: list[SliceRecord] = []
    problems: list[Problem] = []
    for row in read_rows(sheet, known_columns(), problems):
        try:
            records.append(_read_row(row.cells, row_place(sheet, row.line), sheet.parent))
        except BadUsageError as error:
            problems += error.problems
    return tuple(records), problems


def known_columns() -> list[str]:
    """Return the names that columns of a sample sheet may have."""
    models = (SampleRow, GridConfig, SourceRow)
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _read_row(cells: dict[str, str], where: str, base: Path) -> SliceRecord:
    """Return the record of one row; the problems of its three kinds of columns come together."""
    in_config = {name: text for name, text in cells.items() if name in GridConfig.model_fields}
    sources = {name: text for name, text in cells.items() if name in SourceRow.model_fields}
    others = {name: text for name, text in cells.items() if name not in in_config | sources}
    problems: list[Problem] = []
    models: list[Document] = []
    for model, values in ((SampleRow, others), (GridConfig, in_config), (SourceRow, sources)):
        try:
            models.append(read_config(model, values, where))
        except BadUsageError as error:
            problems += error.problems
    if problems:
        raise BadUsageError(*problems)
    row, config, _ = models  # what a row says of its download is for `stbuild fetch`
    grid = {name: getattr(config, name) for name in in_config}
    return replace(_to_record(cast(SampleRow, row), base), grid=grid)


def _to_record(row: SampleRow, base: Path) -> SliceRecord:
    beside = ("positions", "labels_file")
    values = row.model_dump(exclude={"slice", "path", *beside})
    values |= {key: str(base / name) for key in beside if (name := getattr(row, key)) is not None}
    is_absolute = Path(row.path).is_absolute()
    return SliceRecord(
        name=row.slice,
        slug=slugify(row.slice),
        path=str(base / row.path),
        source_name=_published_name(row.path) if is_absolute else row.path,
        base=str(base),
        **values,
    )


def _clashes(records: Sequence[SliceRecord]) -> Iterable[Problem]:
    seen: dict[str, SliceRecord] = {}
    for record in records:
        other = seen.setdefault(record.slug, record)
        if other is not record:
            same = (
                "the same id"
                if other.name == record.name
                else f"ids that both become '{record.slug}'"
            )
            yield Problem(
                code="B092",
                subject=f"slice '{record.name}'",
                where=record.path,
                what=f"{same} as slice '{other.name}' ({other.path})",
                fix="give each slice an id of its own in the sample sheet",
            )
