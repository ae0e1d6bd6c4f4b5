"""What the columns of an AnnData mean: ids, coordinates, labels, sections.

Shared by the readers of ``.h5ad`` and AnnData-Zarr, which hand over data frames column by column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord, Unit
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.columns import SECTIONS, find, find_array, find_position, fold
from stbuild.sources.tables.positions import read_marks
from stbuild.sources.values import count_words, is_missing, to_labels, to_text

_NAMES: Final = (
    "feature_name", "gene_name", "gene_names", "gene_symbols", "gene_symbol", "symbol",
    "gene_ids", "gene_id", "ensembl_id", "feature_id",
)  # fmt: skip
"""Columns of var that hold the other id of a gene, in order of preference."""
_TYPES: Final = ("feature_types", "feature_type")
"""Columns of var that say which features are genes, as 10x calls them."""
_POSITIONS: Final = ("spatial", "x_spatial", "spatial_coords", "coordinates", "coords")
"""Entries of obsm that hold (x, y), in order of preference; compared without case."""
_SECTIONS: Final = (*SECTIONS, "batch", "library", "puck")
"""Columns of obs that may tell sections apart; anndata itself calls what it joins a batch."""
_NEIGHBOURS: Final = 8
_MIXED: Final = 0.05
"""Share of spots with a spot of another section nearer than half a step, from which on sections
lie on top of each other; parts of one section share borders alone."""


class Frame(Protocol):
    """A data frame of an AnnData file, read column by column."""

    where: str

    def columns(self) -> list[str]:
        """Return the names of the columns without the index."""
        ...

    def index(self) -> list[str]:
        """Return the index as text."""
        ...

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a pandas column
        """Return one column, one entry per row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Places:
    """Coordinates of all N spots as they stand in the file."""

    array: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    """(row, col), each (N,)."""
    xy: NDArray[np.float64] | None
    """(N, 2)."""
    in_tissue: NDArray[np.bool_] | None
    unit: Unit = "pixel"
    """Unit of `xy`."""
    depths: NDArray[np.float64] | None = None
    """(N,) z beside `xy`, where there is more than one."""


def read_gene_ids(var: Frame, column: str | None) -> tuple[list[str], list[str] | None]:
    """Return the gene ids and, where var has them, the other names of the genes.

    Raises
    ------
    SourceFaultError
        B074: no such column, or genes that have no id in it.
    """
    index, present = var.index(), set(var.columns())
    if column is None:
        ids, others = index, [name for name in _NAMES if name in present]
    elif column in present:
        ids, others = _read_ids(var, column), []
    else:
        what = f"no column '{column}' in var; columns: {', '.join(sorted(present))}"
        raise SourceFaultError("B074", var.where, what, "name one of them, or none")
    if column is not None:
        return ids, index
    for name in others:
        names = ["" if is_missing(value) else to_text(value) for value in var.read(name)]
        if names != ids:
            return ids, names
    return ids, None


def _read_ids(var: Frame, column: str) -> list[str]:
    """Return the ids of a column; a gene without one is refused, as it would be in the index."""
    ids = ["" if is_missing(value) else to_text(value) for value in var.read(column)]
    if n := ids.count(""):
        what = f"{n:,} of {len(ids):,} genes have no id (first: row {ids.index('')})"
        fix = "give each gene an id, or leave out --gene-id-column: then the index is taken"
        raise SourceFaultError("B074", f"{var.where}/{column}", what, fix)
    return ids


def read_gene_types(var: Frame) -> list[str] | None:
    """Return what var calls the type of each feature, empty where there is none; None without.

    Raises
    ------
    SourceFaultError
        B074: a column that holds no list of texts.
    """
    found = find(present := var.columns(), _TYPES)
    if found is None:
        return None
    values = _read_plain(var, present[found], "B074")
    return ["" if is_missing(value) else to_text(value) for value in values]


def position_key(names: Sequence[str]) -> str | None:
    """Return the entry of obsm that holds positions, or None."""
    found = find(names, _POSITIONS)
    return None if found is None else names[found]


def read_places(
    obs: Frame,
    positions: NDArray[np.float64] | None,
    n_spots: int,
    *,
    needed: bool = True,
    obsm: Sequence[str] = (),
) -> Places:
    """Return array coordinates, positions and tissue mask, whatever of them the file has.

    Parameters
    ----------
    obs
        Columns of the spots.
    positions
        (N, 2 or 3) from obsm, or None; then columns of usual names are tried.
    n_spots
        N.
    needed
        Whether a file without coordinates is at fault; it is not beside a table of positions.
    obsm
        What else stands in obsm, for messages.

    Raises
    ------
    SourceFaultError
        B046: no coordinates at all. B047: a column that is no list of numbers, or a tissue mark
        other than 0 and 1.
    """
    present = obs.columns()
    unit: Unit = "pixel"
    array = None
    if {"array_row", "array_col"} <= {*present}:
        array = _numbers(obs, "array_row", n_spots), _numbers(obs, "array_col", n_spots)
    pair = find_position(present)
    if positions is None and pair is not None:
        columns = [_numbers(obs, present[i], n_spots) for i in (pair.x, pair.y)]
        positions, unit = np.stack(columns, axis=1), pair.unit
    pair = find_array(present)
    if array is None and positions is None and pair is not None:
        array = _numbers(obs, present[pair.y], n_spots), _numbers(obs, present[pair.x], n_spots)
    if array is None and positions is None and needed:
        listed = ", ".join(repr(name) for name in present[:12]) or "nothing"
        entries = ", ".join(repr(name) for name in obsm[:8]) or "nothing"
        what = (
            "no coordinates: neither obs['array_row'], obs['array_col'] nor obsm['spatial']; "
            f"obs has {listed:.300}, obsm {entries:.200}"
        )
        fix = "add one of them to the file, or give a table of coordinates: --positions FILE"
        raise SourceFaultError("B046", "", what, fix)
    in_tissue = _read_marks(obs, n_spots) if "in_tissue" in present else None
    xy, depths = positions, None
    if positions is not None and positions.shape[1] == 3:
        xy, depths = np.ascontiguousarray(positions[:, :2]), positions[:, 2]
    return Places(array=array, xy=xy, in_tissue=in_tissue, unit=unit, depths=depths)


def _read_marks(obs: Frame, n_spots: int) -> NDArray[np.bool_]:
    """Return which spots lie on the tissue; those without a mark do not."""
    where = f"{obs.where}/in_tissue"
    values = ["0" if is_missing(v) else to_text(v) for v in _read_plain(obs, "in_tissue", "B047")]
    if len(values) != n_spots:
        what = f"{len(values):,} marks for {n_spots:,} spots"
        raise SourceFaultError("B047", where, what, "mend the column")
    return read_marks(values, where, "")


def check_positions(values: Any, n_spots: int, where: str) -> NDArray[np.float64]:  # noqa: ANN401
    """Return positions as float64, (N, 2) or, at several depths, (N, 3).

    A data frame's columns are taken by their names.

    Raises
    ------
    SourceFaultError
        B047: not numbers, another shape, or columns whose names do not say which is x.
    """
    found = _as_floats(_in_order(values, where))
    if found.shape == (n_spots, 3) and np.unique(found[:, 2]).size == 1:
        found = found[:, :2]  # one plane: z says nothing
    if found.shape not in ((n_spots, 2), (n_spots, 3)):
        came = f"shape {found.shape}" if found.size else f"no numbers ({type(values).__name__})"
        what = f"expected {n_spots:,} rows of (x, y), got {came}"
        fix = "store x and y per spot, and z of several planes"
        raise SourceFaultError("B047", where, what, fix)
    return found


def _in_order(values: Any, where: str) -> Any:  # noqa: ANN401 - an array or a data frame
    """Return the columns x, y and, where there is one, z of a data frame; else what was given.

    Columns called 0, 1, ... have no names but their order.
    """
    if not hasattr(values, "columns"):
        return values
    names = [str(name) for name in values.columns]
    if names == [str(i) for i in range(len(names))]:
        return values
    pair = find_position(names) or find_array(names)
    if pair is None:
        what = f"a data frame whose columns do not say which is x: {', '.join(names[:8])!s:.200}"
        raise SourceFaultError("B047", where, what, "call them x and y, or store a plain array")
    z = [i for i, name in enumerate(fold(names)) if name == "z"]
    return values.iloc[:, [pair.x, pair.y, *z]]


def _numbers(obs: Frame, name: str, n_spots: int) -> NDArray[np.float64]:
    values = _as_floats(obs.read(name))
    if values.shape != (n_spots,):
        what = f"expected {n_spots:,} numbers, one per spot"
        raise SourceFaultError("B047", f"{obs.where}/{name}", what, "mend the column")
    return values


def _as_floats(values: Any) -> NDArray[np.float64]:  # noqa: ANN401 - an array or a column
    """Return values as float64; nothing where they are no numbers, or complex ones."""
    try:
        found = np.asarray(values)
        return np.zeros(0) if found.dtype.kind == "c" else found.astype(np.float64)
    except (ValueError, TypeError):
        return np.zeros(0)


def _read_plain(obs: Frame, name: str, code: str) -> list[Any]:
    """Return a column as a list of text, numbers, truth values or nothing."""
    values = obs.read(name)
    if np.ndim(values) != 1 or any(isinstance(v, np.void | np.ndarray | list) for v in values):
        what = "expected one text, number or truth value per spot"
        raise SourceFaultError(code, f"{obs.where}/{name}", what, "mend the column")
    return list(values)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of all N spots, and what there is to say about them."""

    values: list[str | None] | None = None
    """One per spot, None where it has none; None altogether where none were asked for."""
    notices: tuple[Notice, ...] = ()


def read_labels(obs: Frame, record: SliceRecord, config: GridConfig, n_spots: int) -> Labels:
    """Return the labels that obs holds, unless they stand in a table of their own.

    Raises
    ------
    SourceFaultError
        B076: no such column. B079: another length. B080: labels of mixed types.
    """
    column = config.label
    if column is None or record.labels_file is not None:
        return Labels()
    present = obs.columns()
    if column not in present:
        what = f"no label column '{column}'; obs has: {', '.join(present)}"
        raise SourceFaultError("B076", "/obs", what, "name one of them with --label, or none")
    values = _read_plain(obs, column, "B079")
    if len(values) != n_spots:
        what = f"{len(values):,} labels for {n_spots:,} spots"
        raise SourceFaultError("B079", f"{obs.where}/{column}", what, "mend the column")
    kinds = {type(value) for value in values if not is_missing(value)}
    if len(kinds) > 1:
        what = f"labels of mixed types: {', '.join(sorted(kind.__name__ for kind in kinds))}"
        raise SourceFaultError("B080", f"{obs.where}/{column}", what, "store them all as strings")
    words = count_words(values)
    subject = f"labels '{column}' of slice '{record.name}'"
    return Labels(
        values=to_labels(values),
        notices=() if words is None else (Notice(code="B077", subject=subject, what=words),),
    )


def read_planes(
    obs: Frame, n_spots: int, depths: NDArray[np.float64] | None = None
) -> tuple[str | None, list[str]] | None:
    """Return the column of depths (z beside x and y) with its values, or None.

    Parameters
    ----------
    obs
        Columns of the spots.
    n_spots
        N.
    depths
        (N,) third column of the positions in obsm, which has no name; taken where obs has none.

    Raises
    ------
    SourceFaultError
        B047: a column that holds no list of values, one per spot.
    """
    present = obs.columns()
    pair = find_position(present)
    x = "x" if pair is None else pair.name
    found = find(present, ["z", *(f"{x[:i]}z{x[i + 1 :]}" for i, c in enumerate(x) if c == "x")])
    if found is None:
        if depths is None:
            return None
        return None, ["" if math.isnan(depth) else to_text(depth) for depth in depths.tolist()]
    name = present[found]
    values = _read_plain(obs, name, "B047")
    if len(values) != n_spots:
        what = f"{len(values):,} depths for {n_spots:,} spots"
        raise SourceFaultError("B047", f"{obs.where}/{name}", what, "mend the column")
    return name, ["" if is_missing(value) else to_text(value) for value in values]


def read_sections(obs: Frame, split_by: str | None, n_spots: int) -> tuple[str, list[str]] | None:
    """Return the column that tells sections apart with its values, or None.

    Raises
    ------
    SourceFaultError
        B056: the column that was asked for does not stand there.
    """
    present = obs.columns()
    if split_by is not None and split_by not in present:
        what = f"no column '{split_by}' to split by; obs has: {', '.join(present)}"
        raise SourceFaultError("B056", "/obs", what, "name one of them with --split-by")
    usual = [name for wanted in _SECTIONS for name in present if name.lower() == wanted]
    for name in [split_by] if split_by else usual:
        plain = _read_plain(obs, name, "B056")
        values = ["" if is_missing(value) else to_text(value) for value in plain]
        if len(values) == n_spots and (split_by or len(set(values)) > 1):
            return name, values
    return None


def is_whole(record: SliceRecord) -> bool:
    """Tell whether all spots of a file are one slice; ids may repeat in sections of their own."""
    return record.split_by is None and record.part is None


def require_part(raw: RawSlice, record: SliceRecord, scratch: Path | None) -> RawSlice:
    """Return the section that the record names, or the whole if it is one section alone.

    Raises
    ------
    SourceFaultError
        B056: no such section, or several sections that lie on top of each other.
    """
    if raw.sections is None and record.part is not None:
        what = f"no part {record.part!r:.60}: nothing in it tells sections apart"
        raise SourceFaultError("B056", "", what, "leave the column `part` empty, or add split_by")
    if raw.sections is None:
        return raw
    column, values = raw.sections
    found = sorted(set(values) - {""})
    if record.part is not None:
        rows = np.flatnonzero(np.asarray([value == record.part for value in values], bool))
        if not rows.size:
            what = f"no spot has {column} '{record.part}'; there are: {', '.join(found[:10])}"
            raise SourceFaultError("B056", column, what, "name one of them")
        return replace(
            raw.take(rows, scratch), notices=(*raw.notices, *_left(record, raw.sections))
        )
    if len(found) < 2 or record.split_by is not None:
        return raw
    named = ", ".join(found[:5])
    fix = f"build each by itself: --split-by {column}"
    if _overlap(raw, values):
        what = f"{len(found)} sections ({named}) lie on top of each other in one file"
        raise SourceFaultError("B056", column, what, fix)
    notice = Notice(
        code="B056",
        subject=f"slice '{record.name}'",
        what=f"'{column}' names {len(found)} sections ({named}) side by side: windows may "
        f"see two of them; --split-by {column} builds each by itself",
    )
    return replace(raw, notices=(*raw.notices, notice))


def _left(record: SliceRecord, sections: tuple[str, Sequence[str]]) -> tuple[Notice, ...]:
    """Tell of spots that belong to no section, and so to no slice."""
    column, values = sections
    if not (n := values.count("")):
        return ()
    what = f"{n:,} of {len(values):,} spots of the file have no '{column}': they are in no slice"
    return (Notice(code="B056", subject=f"slice '{record.name}'", what=what),)


def _overlap(raw: RawSlice, values: Sequence[str]) -> bool:
    """Tell whether sections lie on top of each other: their spots are closer than a step."""
    from scipy.spatial import cKDTree  # late: slow to import, seldom needed

    points = raw.xy if raw.array is None else np.stack(raw.array, axis=1)
    if points is None:
        return False
    known = np.isfinite(points).all(axis=1) & np.asarray([value != "" for value in values])
    if np.count_nonzero(known) < 2:
        return False
    points = points[known]
    names = np.unique(np.asarray(values)[known], return_inverse=True)[1]
    k = min(_NEIGHBOURS, len(points))
    distance, which = cKDTree(points).query(points, k=k)
    # A spot at the very place of this one may come before it.
    itself = which == np.arange(len(points))[:, None]
    same = names[np.minimum(which, len(points) - 1)] == names[:, None]
    own = np.where(same & ~itself, distance, np.inf).min(axis=1)
    other = np.where(same, np.inf, distance).min(axis=1)
    return bool(np.mean(other < 0.5 * np.median(own)) > _MIXED)
