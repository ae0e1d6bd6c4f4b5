"""Which reader a path is for: chosen by looking at it, or by name. One reader a file.

Readers are imported when they are needed: a table needs no HDF5, an ``.h5ad`` no Zarr.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from stbuild.config import Format, GridConfig
from stbuild.corpus.paths import Look, look_at
from stbuild.slices import SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice

Reader = Callable[[SliceRecord, GridConfig, Path | None], RawSlice]


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A reader, and what it makes of options that not every source can follow."""

    name: str
    """As messages call it."""
    reader: str
    label: bool = False
    """Whether it has columns of labels of its own."""
    layer: bool = False
    """Whether it has several matrices to choose from."""
    positions: bool = False
    """Whether it joins a table of positions itself."""
    part: bool = False
    """Whether it parts a source, or refuses to."""


_TABLES: Final = "stbuild.sources.tables.reader:read_table"
_FORMATS: Final[dict[str, _Format]] = {
    "h5ad": _Format(
        name=".h5ad",
        reader="stbuild.sources.h5ad:read_h5ad",
        label=True,
        layer=True,
        part=True,
    ),
    "anndata-zarr": _Format(
        name="AnnData-Zarr",
        reader="stbuild.sources.anndata_zarr:read_anndata_zarr",
        label=True,
        layer=True,
        part=True,
    ),
    "spatialdata": _Format(
        name="SpatialData",
        reader="stbuild.sources.spatialdata:read_spatialdata",
        label=True,
        layer=True,
        part=True,
    ),
    "spaceranger": _Format(
        name="Space Ranger's output",
        reader="stbuild.sources.spaceranger:read_spaceranger",
        layer=True,
        positions=True,
        part=True,
    ),
    "xenium": _Format(name="Xenium's output", reader="stbuild.sources.xenium:read_xenium"),
    "table": _Format(name="a text table", reader=_TABLES, label=True, positions=True, part=True),
    "gem": _Format(name="a GEM file", reader=_TABLES),
}
_HDF5: Final = b"\x89HDF\r\n\x1a\n"


def read_source(record: SliceRecord, config: GridConfig, scratch: Path | None = None) -> RawSlice:
    """Read one section from whatever lies at the record's path.

    What is asked of it is done or refused: an option that its format cannot follow is a fault.

    Parameters
    ----------
    record
        Path, and what belongs to it: positions, labels, the section of a file.
    config
        Format, layer, label, gene id column.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    SourceFaultError, BadInputError
        Every fault of the source.
    """
    path = Path(record.path)
    require_text(record.path)
    require_there(path)
    asked = config.format if config.format != "auto" else detect_format(path)
    kind = _format_of(asked, path)
    _refuse_unused(kind, record, config)
    read: Reader = resolve_name(kind.reader)
    raw = read(record, config, scratch)
    if record.part is not None and raw.sections is None and not kind.part:
        what = f"no part {record.part!r:.60}: nothing in {kind.name} tells sections apart"
        raise SourceFaultError("B056", "", what, "leave the column `part` empty")
    if record.positions is not None and not kind.positions:
        from stbuild.sources.placed import place_by_table

        subject = f"slice '{record.name}'"
        raw = place_by_table(raw, Path(record.positions), subject=subject, record=record)
    if record.labels_file is None:
        return raw
    from stbuild.sources.labels import join_labels

    path, section = Path(record.labels_file), record.section
    return join_labels(raw, path, config.label, section=section, name=record.name)


def _refuse_unused(kind: _Format, record: SliceRecord, config: GridConfig) -> None:
    """Refuse options that the format cannot follow.

    Raises
    ------
    SourceFaultError
        B076: a label column. B023: a layer.
    """
    if config.label is not None and record.labels_file is None and not kind.label:
        what = f"no label column {config.label!r:.60}: {kind.name} has no labels of its own"
        fix = "give a table of labels: column `labels_file` of the manifest, or --labels-file FILE"
        raise SourceFaultError("B076", "", what, fix)
    if config.layer is not None and not kind.layer:
        what = f"no layer {config.layer!r:.60}: {kind.name} has one matrix of counts"
        raise SourceFaultError("B023", "", what, "leave out --layer")


def require_text(path: str) -> None:
    """Refuse a path that cannot stand in a document.

    Raises
    ------
    SourceFaultError
        B091: it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        fix = "rename the file or the folder that it lies in"
        raise SourceFaultError("B091", "", "its path is not UTF-8", fix) from None


def require_there(path: Path) -> Look:
    """Return what lies at a path.

    Raises
    ------
    SourceFaultError
        B001: nothing there.
    """
    look = look_at(path)
    if look.fault is not None:
        fix = "check the path in the list or manifest"
        raise SourceFaultError("B001", "", look.fault, fix)
    return look


def detect_format(path: Path) -> Format:
    """Return the format of a file or folder, from names and first bytes alone.

    Raises
    ------
    SourceFaultError
        B001: nothing there. B008: neither file nor folder. B007: nothing that a reader knows.
    """
    look = require_there(path)
    if look.is_folder:
        return _detect_folder(path)
    if not look.is_file:
        raise SourceFaultError("B008", "", "not a regular file", "give the file itself")
    if path.suffix == ".h5ad":
        return "h5ad"
    if _is_xenium(path):
        return "imaging"
    if _is_run(path):
        return "spaceranger"
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except PermissionError:
        fix = "make it readable for this user"
        raise SourceFaultError("B011", "", "the file may not be read", fix) from None
    if head == _HDF5:
        return "h5ad" if _is_anndata(path) else "spaceranger"
    from stbuild.sources.tables.reader import looks_like_table

    if looks_like_table(path):
        return "table"
    return "h5ad"  # its reader says what the file is instead


def _is_anndata(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "obs" in file and "var" in file
    except OSError:  # the reader says what is wrong with it
        return True


def _detect_folder(path: Path) -> Format:
    try:
        return _look_inside(path)
    except PermissionError:
        fix = "make it readable for this user"
        raise SourceFaultError("B011", "", "the folder may not be read", fix) from None


def _look_inside(path: Path) -> Format:
    if any((path / name).is_file() for name in (".zgroup", "zarr.json", ".zmetadata")):
        from stbuild.sources.spatialdata import looks_like_spatialdata

        return "spatialdata" if looks_like_spatialdata(path) else "anndata-zarr"
    from stbuild.sources.tables.reader import looks_like_table

    if _is_xenium(path):
        return "imaging"
    if _is_run(path):
        return "spaceranger"
    if looks_like_table(path):
        return "table"
    listed = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    fix = "give a Space Ranger folder, tables of counts and positions, .h5ad or Zarr; or --format"
    raise SourceFaultError("B007", "", f"no slice that a reader knows; it holds: {listed}", fix)


def _format_of(asked: Format, path: Path) -> _Format:
    """Return the format of a path whose kind is known: tables and imaging are of two formats."""
    if asked == "imaging" and _is_xenium(path):
        return _FORMATS["xenium"]
    if asked not in ("imaging", "table"):
        return _FORMATS[asked]
    from stbuild.sources.gem import find_gem

    return _FORMATS["table" if find_gem(path) is None else "gem"]


def _is_xenium(path: Path) -> bool:
    from stbuild.sources.xenium import looks_like_xenium

    return looks_like_xenium(path)


def _is_run(path: Path) -> bool:
    from stbuild.sources.spaceranger_files import looks_like_spaceranger

    return looks_like_spaceranger(path)
