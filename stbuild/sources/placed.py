"""Positions from a table of their own, for a source whose counts were read without them.

Text tables and Space Ranger's own tables of positions have their places in their own readers; here
a table that the user names is joined to an AnnData, a cell matrix, or any other source.
"""

from dataclasses import replace
from pathlib import Path

from stbuild.corpus.paths import look_at
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import require_part
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.keys import make_keys
from stbuild.sources.tables.places import place_spots
from stbuild.sources.tables.planes import choose_sections, require_one_plane
from stbuild.sources.tables.positions import Positions, read_positions
from stbuild.sources.tables.preview import read_preview
from stbuild.sources.tissue_positions import is_tissue_positions, read_tissue_positions


def place_by_table(
    raw: RawSlice, path: Path, *, subject: str, record: SliceRecord | None = None
) -> RawSlice:
    """Return the section with the coordinates of a table instead of any of its own.

    Parameters
    ----------
    raw
        What a reader handed over.
    path
        Table of coordinates: Space Ranger's, or any that names its columns.
    subject
        The slice, for notices.
    record
        What the user says of its sections; None leaves a column of sections alone, as does a
        source that has told its sections apart.

    Raises
    ------
    SourceFaultError
        B001: no such file. B046, B047, B082: no coordinates in it, or they fit no spot. B047:
        several planes. B056: several sections that lie on top of each other.
    """
    if not (look := look_at(path)).is_file:
        what = look.fault or "not a regular file"
        raise SourceFaultError("B001", path.name, what, "check --positions")
    positions = _read(path, None if record is None else record.split_by)
    places = place_spots(list(raw.barcodes), positions)
    tissue = places.in_tissue
    if tissue is not None and raw.in_tissue is not None:
        tissue = tissue & raw.in_tissue
    notices = [Notice(code=code, subject=subject, what=what) for code, what in places.notes]
    placed = replace(
        raw,
        array=places.array,
        xy=places.xy,
        unit=places.unit,
        um_per_unit=1.0 if places.unit == "um" else None,
        planes=None,
        in_tissue=raw.in_tissue if tissue is None else tissue,
        files=tuple(sorted({*raw.files, path})),
        ledger={**raw.ledger, **places.ledger},
        notices=(*raw.notices, *notices),
    )
    sections = raw.sections
    if record is not None and sections is None:
        sections = choose_sections(places.sections, record.split_by)
        placed = replace(placed, sections=sections)
    require_one_plane(places.depth, sections, record, path.name)
    if record is None or raw.sections is not None or sections is None:
        return placed
    return require_part(placed, record, None)


def _read(path: Path, split_by: str | None) -> Positions:
    if not is_tissue_positions(path):
        return read_positions(read_preview(path), split_by)
    table = read_tissue_positions(path)
    return Positions(
        path=path,
        n_rows=len(table.barcodes),
        ids=make_keys([(("barcode",), table.barcodes.to_pylist())]),
        array=(table.array_row, table.array_col),
        xy=table.xy,
        in_tissue=table.in_tissue,
    )
