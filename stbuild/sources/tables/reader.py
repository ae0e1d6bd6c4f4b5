"""The reader of text tables: counts in one table, coordinates in another or in the ids.

Legacy ST arrays, text exports of any platform, and the cell tables of MERSCOPE and CosMx. How a
table is written and what its columns mean is found in the ``table_*`` modules; here they are put
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.counts import column_sums
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import require_part
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.gem import find_gem, read_gem
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.columns import is_control
from stbuild.sources.tables.counts import CountTable, read_counts
from stbuild.sources.tables.orient import Axes, find_axes
from stbuild.sources.tables.places import Places, place_rows, place_spots
from stbuild.sources.tables.planes import (
    Sections,
    as_sections,
    choose_sections,
    require_one_plane,
    section_places,
)
from stbuild.sources.tables.positions import (
    Positions,
    join_ids,
    positions_of_rows,
    read_positions,
)
from stbuild.sources.tables.preview import Preview, read_preview
from stbuild.sources.tables.roles import (
    Tables,
    choose_tables,
    holds_values,
    is_molecules,
    is_table_name,
    require_plain_numbers,
    role_of,
)
from stbuild.sources.tables.totals import find_totals
from stbuild.sources.values import count_words, to_labels


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """Counts of N spots over K genes with their ids."""

    counts: csr_array
    spots: list[str]
    genes: list[str]
    gene_names: list[str] | None
    ledger: dict[str, int]
    totals: tuple[str, ...] = ()
    """Names of what holds the sums of the genes."""


def looks_like_table(path: Path) -> bool:
    """Tell whether a path is a text table or a folder with one; only first lines are read.

    A file that is called like a table is taken for one, so that this reader says what is wrong
    with it.
    """
    if find_gem(path) is not None:
        return True
    if path.is_dir():
        try:
            files = sorted(entry for entry in path.iterdir() if entry.is_file())
        except PermissionError:
            return False
        return any(is_table_name(entry, text=False) or _holds_table(entry) for entry in files)
    return path.is_file() and (is_table_name(path) or _holds_table(path))


def _holds_table(path: Path) -> bool:
    """Tell whether a file that is called anything holds counts, or one called so positions."""
    try:
        role = role_of(read_preview(path))
    except SourceFaultError:
        return False
    return role == "counts" or (role == "positions" and is_table_name(path))


def read_table(record: SliceRecord, config: GridConfig, scratch: Path | None = None) -> RawSlice:
    """Read a table of counts and the coordinates that belong to it.

    Parameters
    ----------
    record
        `path`: the count table, or a folder with exactly one; `positions`: the table of
        coordinates, where it is not found in the folder or stands elsewhere; `split_by`, `part`:
        a column of either, and the section.
    config
        Gene id column, where the genes have ids and names; label column, where the count table
        has one and no table of labels is given.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    SourceFaultError
        Damaged or malformed tables, values that are not counts, no or unclear coordinates. B056:
        several sections that lie on top of each other. B047: several planes.
    """
    if (gem := find_gem(Path(record.path))) is not None:
        return read_gem(record, config, gem)
    tables = _find_tables(record)
    positions = _read_positions(tables, record)
    known = () if positions is None else tuple(key.values for key in positions.ids)
    axes = find_axes(tables.counts, known)
    table = read_counts(tables.counts, axes.n_leading, axes.kept, scratch)
    matrix = _orient(tables.counts, axes, table)
    places = _place(tables.counts, axes, table, matrix, positions)
    sections = _find_sections(record, tables, axes, table, places)
    genes, names = _choose_names(matrix, config, tables.counts, axes)
    texts = None if record.labels_file else _read_labels(config.label, tables.counts, axes, table)
    files = {tables.counts.path} if positions is None else {tables.counts.path, positions.path}
    subject = f"slice '{record.name}'"
    notes = [*places.notes, *_left_out(axes, matrix), *_passed_over(tables)]
    if words := count_words(texts or ()):
        notes.append(("B077", words))
    labels = None if texts is None else to_labels(texts)
    raw = RawSlice(
        counts=matrix.counts,
        barcodes=matrix.spots,
        genes=genes,
        gene_names=names,
        array=places.array,
        xy=places.xy,
        unit=places.unit,
        in_tissue=places.in_tissue,
        labels=labels,
        files=tuple(sorted(files)),
        ledger={**matrix.ledger, **places.ledger},
        notices=tuple(Notice(code=code, subject=subject, what=what) for code, what in notes),
        sections=sections,
    )
    where = tables.counts if positions is None else positions
    require_one_plane(places.depth, sections, record, where.path.name)
    return require_part(raw, record, scratch)


def _read_positions(tables: Tables, record: SliceRecord) -> Positions | None:
    if tables.positions is None:
        return None
    return read_positions(tables.positions, record.split_by)


def _find_sections(
    record: SliceRecord, tables: Tables, axes: Axes, table: CountTable, places: Places
) -> Sections | None:
    """Return the column that tells sections apart, of the counts or of the positions.

    Raises
    ------
    SourceFaultError
        B056: neither has the column that was asked for.
    """
    names = (tables.counts.names or ())[: axes.n_leading] if axes.by_spot else ()
    own = [(names[i], as_sections(table.leads[i])) for i in section_places(names, record.split_by)]
    found = choose_sections([*own, *places.sections], record.split_by)
    if found is not None or record.split_by is None:
        return found
    listed = [*names, *((tables.positions and tables.positions.names) or ())]
    what = (
        f"no column {record.split_by!r:.60} to split by before the counts or among the positions; "
        f"there are: {', '.join(listed)!r:.300}"
    )
    raise SourceFaultError("B056", tables.counts.path.name, what, "name one with --split-by")


def _find_tables(record: SliceRecord) -> Tables:
    path = Path(record.path)
    positions = None if record.positions is None else Path(record.positions)
    if path.is_dir():
        tables = choose_tables(path, positions)
        require_plain_numbers(tables.counts)
        return tables
    counts = read_preview(path)
    require_plain_numbers(counts)
    if is_molecules(counts):
        what = f"{path.name} lists molecules, one per row, not counts per spot or cell"
        fix = "sum them per spot or cell first, and give that table"
        raise SourceFaultError("B007", path.name, what, fix)
    role = role_of(counts)
    if role in ("positions", "labels") and not holds_values(counts):
        what = f"no counts: {path.name} is a table of {role}"
        fix = "give the table of counts as the path, and this one as --positions or --labels-file"
        raise SourceFaultError("B023", path.name, what, fix)
    return Tables(counts=counts, positions=None if positions is None else read_preview(positions))


def _orient(preview: Preview, axes: Axes, table: CountTable) -> _Matrix:
    """Return the counts as spots x genes, controls and totals left out and counted."""
    ids = join_ids([table.leads[i] for i in axes.ids])
    columns = [(preview.names or ())[i].strip() for i in axes.kept]
    names = None if axes.names is None else table.leads[axes.names]
    counts, spots, genes = table.counts, ids, columns
    if not axes.by_spot:
        counts, spots, genes = csr_array(table.counts.T.tocsr()), columns, ids
    control = np.asarray([is_control(gene) for gene in genes], bool)
    ledger = {"columns_without_counts": len(axes.left_out)} if axes.left_out else {}
    total = find_totals(counts, control)
    if not (control | total).any():
        return _Matrix(counts=counts, spots=spots, genes=genes, gene_names=names, ledger=ledger)
    kept = np.flatnonzero(~(control | total))
    if control.any():
        ledger |= {
            "features_of_other_types": int(control.sum()),
            "molecules_of_other_types": int(column_sums(counts)[control].sum()),
        }
    if total.any():
        ledger["totals_left_out"] = int(total.sum())
    return _Matrix(
        counts=csr_array(counts[:, kept]),
        spots=spots,
        genes=[genes[i] for i in kept.tolist()],
        gene_names=None if names is None else [names[i] for i in kept.tolist()],
        ledger=ledger,
        totals=tuple(genes[i] for i in np.flatnonzero(total).tolist()),
    )


def _place(
    preview: Preview, axes: Axes, table: CountTable, matrix: _Matrix, positions: Positions | None
) -> Places:
    if positions is None and axes.by_spot:
        own = positions_of_rows(preview, table.leads, (preview.names or ())[: axes.n_leading])
        if own is not None:
            return place_rows(own)
    return place_spots(matrix.spots, positions, composite=len(axes.ids) > 1)


def _choose_names(
    matrix: _Matrix, config: GridConfig, preview: Preview, axes: Axes
) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return ids and other names of the genes; swapped if the column of names was asked for."""
    column = config.gene_id_column
    names = preview.names or ()
    if column is None or column == names[axes.ids[0]]:
        return matrix.genes, matrix.gene_names
    if matrix.gene_names is not None and column in names:
        return matrix.gene_names, matrix.genes
    what = f"no column {column!r:.60} with the ids of the genes"
    raise SourceFaultError("B074", preview.path.name, what, "leave out --gene-id-column")


def _read_labels(
    column: str | None, preview: Preview, axes: Axes, table: CountTable
) -> list[str] | None:
    """Return the labels, where the count table has them in a column before the counts."""
    if column is None:
        return None
    names = (preview.names or ())[: axes.n_leading]
    if axes.by_spot and column in names:
        return table.leads[names.index(column)]
    what = f"no label column {column!r:.60} before the counts in {preview.path.name}"
    fix = "give the table of labels: column `labels_file` of the manifest, or --labels-file FILE"
    raise SourceFaultError("B076", "", what, fix)


def _passed_over(tables: Tables) -> list[tuple[str, str]]:
    if not tables.passed_over:
        return []
    others = ", ".join(path.name for path in tables.passed_over[:5])
    return [("B025", f"took {tables.counts.path.name}; {others} beside it hold no whole numbers")]


def _left_out(axes: Axes, matrix: _Matrix) -> list[tuple[str, str]]:
    """Say which columns and features are no genes."""
    found = []
    if axes.left_out:
        named = ", ".join(repr(name) for name in axes.left_out[:8])
        found.append(("B073", f"{len(axes.left_out)} columns hold no counts of genes: {named}"))
    if matrix.totals:
        named = ", ".join(repr(name) for name in matrix.totals[:5])
        found.append(("B073", f"sums of all genes in every spot are no genes, left out: {named}"))
    if n := matrix.ledger.get("features_of_other_types"):
        lost = matrix.ledger["molecules_of_other_types"]
        found.append(("B073", f"{n:,} controls with {lost:,} molecules are no genes: left out"))
    return found
