"""The ``.h5ad`` reader: one file to one :class:`Slice`, or every fault of it at once.

Only the paths that are needed are opened; counts are never guessed from a transformed matrix.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import BadInputError
from stbuild.slices import Notice, Slice, SliceRecord
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.hdf5 import child, has, open_foreign, read_strings
from stbuild.sources.matrices import read_counts

_LARGEST_INDEX: Final = 2**40
"""Array indices beyond it are damage, not coordinates."""


@dataclass(frozen=True)
class _Columns:
    """Per-spot columns as they stand in the file, before any spot is dropped."""

    array: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    xy: NDArray[np.float64] | None
    in_tissue: NDArray[np.bool_] | None
    labels: list[str | None] | None


def read_h5ad(record: SliceRecord, config: GridConfig) -> Slice:
    """Read one ``.h5ad`` file.

    Spots without counts, and by default those with ``in_tissue`` 0, are dropped and counted.
    Genes whose id stands twice are dropped and counted; their molecules stay in the totals.

    Parameters
    ----------
    record
        Which file, under which id.
    config
        Layer, label column and gene id column.

    Returns
    -------
    Slice
        Spots in the file's order, genes sorted by id.

    Raises
    ------
    BadInputError
        Every fault of the file: container, matrix, coordinates, labels, ids.
    """
    faults = Faults()
    with open_foreign(record.name, record.path) as file:
        missing = [f"/{name}" for name in ("obs", "var") if not has(file, name)]
        if missing or not isinstance(child(file, "obs"), h5py.Group):
            what = f"not an AnnData file: missing {', '.join(missing) or 'a group /obs'}"
            raise SourceFaultError("B006", "", what, "give an .h5ad file written by anndata")
        matrix_path, var_path = _locate(file, config.layer)
        barcodes = faults.attempt(lambda: _index(child(file, "obs")))
        genes = faults.attempt(lambda: _gene_ids(child(file, var_path), config.gene_id_column))
        columns = faults.attempt(lambda: _columns(file, len(barcodes or ()), config))
        counts = None
        if barcodes is not None and genes is not None:
            faults.attempt(lambda: _require_unique(barcodes))
            shape = (len(barcodes), len(genes))
            counts = faults.attempt(lambda: _counts(file, matrix_path, shape))
    if faults.found or barcodes is None or genes is None or columns is None or counts is None:
        raise faults.error(record.name, record.path)
    return _assemble(record, config, counts, genes, barcodes, columns)


def _locate(file: h5py.File, layer: str | None) -> tuple[str, str]:
    path, var = "X", "var"
    if layer == "raw":
        path, var = "raw/X", "raw/var"
    elif layer is not None and layer != "X":
        path = f"layers/{layer}"
    if not has(file, path):
        places = ", ".join(_matrices(file)) or "none"
        what = f"no counts in {path}; matrices present: {places}"
        raise SourceFaultError("B023", f"/{path}", what, "name one of them with --layer")
    return path, var


def _matrices(file: h5py.File) -> list[str]:
    found = ["X"] if has(file, "X") else []
    found += ["raw"] if has(file, "raw/X") else []
    if has(file, "layers"):
        found += sorted(child(file, "layers"))
    return found


def _counts(file: h5py.File, path: str, shape: tuple[int, int]) -> csr_array:
    try:
        return read_counts(child(file, path), shape)
    except SourceFaultError as fault:
        if fault.code not in ("B028", "B029", "B030"):
            raise
        others = [name for name in _matrices(file) if _looks_like_counts(file, name)]
        advice = "give a file with raw counts; no other matrix of this file holds counts"
        if others:
            named = ", ".join(f"'{name}'" for name in others)
            advice = f"{named} looks like counts: pass --layer {others[0]}"
        raise SourceFaultError(fault.code, fault.field, fault.what, advice) from None


def _looks_like_counts(file: h5py.File, name: str) -> bool:
    path = {"X": "X", "raw": "raw/X"}.get(name, f"layers/{name}")
    try:
        node = child(file, path)
        data = node if isinstance(node, h5py.Dataset) else child(node, "data")
        sample = np.asarray(data[:100], np.float64)
    except (SourceFaultError, KeyError, ValueError, TypeError):
        return False
    whole = np.isfinite(sample) & (sample >= 0) & (sample == np.floor(sample))
    return bool(whole.all())


def _index(frame: h5py.Group) -> list[str]:
    name = str(frame.attrs.get("_index", "_index"))
    if not has(frame, name):
        what = f"no index '{name}' in {frame.name}"
        raise SourceFaultError("B006", frame.name, what, "write the file with anndata")
    node = child(frame, name)
    if not isinstance(node, h5py.Dataset):
        return [str(value) for value in _element(frame, name)]
    return read_strings(node)


def _element(parent: h5py.Group, path: str) -> Any:  # noqa: ANN401 - an array or a pandas column
    """Read one element with anndata, which knows its encodings.

    Raises
    ------
    SourceFaultError
        anndata cannot read it: bad codes, repeated categories, an unknown encoding.
    """
    node = child(parent, path)
    if isinstance(node, h5py.Group):
        for part in sorted(node):
            child(node, part)
    try:
        return read_elem(node)
    except Exception as error:  # noqa: BLE001 - a foreign file can make anndata raise anything
        what = (
            f"anndata cannot read it: {(str(error) or type(error).__name__).splitlines()[0][:120]}"
        )
        fix = "mend the column and write the file again with anndata"
        raise SourceFaultError("B079", node.name, what, fix) from None


def _require_unique(barcodes: Sequence[str]) -> None:
    if not barcodes:
        raise SourceFaultError("B058", "/obs", "0 spots", "drop this slice from the list")
    if bad := [b for b in barcodes if not b or not b.isprintable() or len(b) > 200]:
        what = f"{len(bad):,} spot ids are empty, too long or not printable (first: {bad[0]!r})"
        raise SourceFaultError("B091", "/obs/_index", what, "give each spot a plain id")
    twice = [name for name, times in Counter(barcodes).items() if times > 1]
    if twice:
        what = f"{len(twice):,} spot ids stand more than once (first: {', '.join(twice[:3])})"
        fix = "make them unique (obs_names_make_unique); embeddings are joined on them"
        raise SourceFaultError("B082", "/obs/_index", what, fix)


def _gene_ids(var: h5py.Group, column: str | None) -> list[str]:
    if column is None:
        genes = _index(var)
    elif has(var, column):
        genes = [str(value) for value in _element(var, column)]
    else:
        what = f"no column '{column}' in var; columns: {', '.join(sorted(var))}"
        raise SourceFaultError("B074", var.name, what, "name one of them, or none")
    if bad := [g for g in genes if not g or not g.isprintable()]:
        what = f"{len(bad):,} gene ids are empty or not printable (first: {bad[0]!r})"
        raise SourceFaultError("B074", var.name, what, "give each gene a plain id")
    return genes


def _columns(file: h5py.File, n_spots: int, config: GridConfig) -> _Columns:
    obs = child(file, "obs")
    array = None
    if has(obs, "array_row") and has(obs, "array_col"):
        array = _numbers(obs, "array_row", n_spots), _numbers(obs, "array_col", n_spots)
    xy = _positions(file, n_spots) if has(file, "obsm/spatial") else None
    if array is None and xy is None:
        what = "no coordinates: neither obs['array_row'], obs['array_col'] nor obsm['spatial']"
        raise SourceFaultError("B046", "", what, "add one of them to the file")
    in_tissue = None
    if has(obs, "in_tissue"):
        values = _numbers(obs, "in_tissue", n_spots)
        in_tissue = values > 0
    labels = None if config.label is None else _labels(obs, config.label, n_spots)
    return _Columns(array, xy, in_tissue, labels)


def _numbers(obs: h5py.Group, name: str, n_spots: int) -> NDArray[np.float64]:
    try:
        values = np.asarray(_element(obs, name), np.float64)
    except (ValueError, TypeError):
        values = np.zeros(0)
    if values.shape != (n_spots,):
        what = f"expected {n_spots:,} numbers, one per spot"
        raise SourceFaultError("B047", f"/obs/{name}", what, "mend the column")
    return values


def _positions(file: h5py.File, n_spots: int) -> NDArray[np.float64]:
    try:
        values = np.asarray(_element(file, "obsm/spatial"), np.float64)
    except (ValueError, TypeError):
        values = np.zeros(0)
    if values.ndim != 2 or values.shape[0] != n_spots or values.shape[1] != 2:
        what = f"expected {n_spots:,} rows of (x, y), got shape {values.shape}"
        raise SourceFaultError("B047", "/obsm/spatial", what, "store x and y per spot")
    return values


def _labels(obs: h5py.Group, column: str, n_spots: int) -> list[str | None]:
    if not has(obs, column):
        what = f"no label column '{column}'; obs has: {', '.join(sorted(obs))}"
        raise SourceFaultError("B076", "/obs", what, "name one of them with --label, or none")
    values = list(_element(obs, column))
    if len(values) != n_spots:
        what = f"{len(values):,} labels for {n_spots:,} spots"
        raise SourceFaultError("B079", f"/obs/{column}", what, "mend the column")
    kinds = {type(value) for value in values if not _is_missing(value)}
    if len(kinds) > 1:
        what = f"labels of mixed types: {', '.join(sorted(kind.__name__ for kind in kinds))}"
        raise SourceFaultError("B080", f"/obs/{column}", what, "store them all as strings")
    return [None if _is_missing(value) else _label_text(value) for value in values]


def _is_missing(value: object) -> bool:
    is_nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return value is None or is_nan or str(value) in ("", "nan", "<NA>", "NaN")


def _label_text(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _assemble(
    record: SliceRecord,
    config: GridConfig,
    counts: csr_array,
    genes: list[str],
    barcodes: list[str],
    columns: _Columns,
) -> Slice:
    totals = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
    off = np.zeros(len(barcodes), bool)
    if columns.in_tissue is not None and config.off_tissue == "drop":
        off = ~columns.in_tissue
    kept = np.flatnonzero(~off & (totals > 0))
    if not kept.size:
        what = f"no counts: all {len(barcodes):,} spots are empty or off the tissue"
        fault = SourceFaultError("B044", "", what, "drop this slice from the list")
        raise BadInputError(fault.problem(record.name, record.path))
    order, n_twice = _unique_genes(genes)
    array, xy, notices = _coordinates(record, columns, kept)
    kept_counts = counts if kept.size == counts.shape[0] else csr_array(counts[kept])
    if not np.array_equal(order, np.arange(len(genes))):
        kept_counts = csr_array(kept_counts[:, order])
        kept_counts.sort_indices()
    ledger = {
        "spots_read": len(barcodes),
        "spots_off_tissue": int(off.sum()),
        "spots_without_counts": int(np.count_nonzero(~off & (totals == 0))),
        "genes_read": len(genes),
        "genes_duplicated": n_twice,
        "molecules_read": int(totals.sum()),
        "molecules_off_tissue": int(totals[off].sum()),
        "molecules_duplicated_genes": int(totals[kept].sum() - kept_counts.sum(dtype=np.int64)),
        "molecules_kept": int(kept_counts.sum(dtype=np.int64)),
    }
    labels = columns.labels
    return Slice(
        counts=kept_counts,
        genes=[genes[i] for i in order],
        totals=totals[kept],
        barcodes=[barcodes[i] for i in kept],
        array_row=array[0] if array else None,
        array_col=array[1] if array else None,
        xy=xy,
        labels=None if labels is None else [labels[i] for i in kept],
        source=SourceFile(
            name=record.source_name,
            bytes=Path(record.path).stat().st_size,
            sha256=sha256_file(Path(record.path)),
        ),
        ledger=ledger,
        notices=(*notices, *_notices(record, ledger, genes)),
    )


def _unique_genes(genes: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Return the columns of unique ids, in the order of the ids, and how many were left out."""
    times = Counter(genes)
    once = [i for i, gene in enumerate(genes) if times[gene] == 1]
    ordered = np.asarray(sorted(once, key=lambda i: genes[i]), np.int64)
    return ordered, len(genes) - ordered.size


def _coordinates(
    record: SliceRecord, columns: _Columns, kept: NDArray[np.int64]
) -> tuple[
    tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    NDArray[np.float64] | None,
    tuple[Notice, ...],
]:
    array = None
    if columns.array is not None:
        pair = np.stack([column[kept] for column in columns.array])
        inside = np.isfinite(pair) & (np.abs(pair) <= _LARGEST_INDEX)
        if inside.all() and bool(np.all(pair == np.floor(pair))):
            array = pair[0].astype(np.int64), pair[1].astype(np.int64)
    xy = None if columns.xy is None else columns.xy[kept]
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1)) if xy is not None else np.zeros(0, int)
    if array is None and (xy is None or bad.size):
        field_name = "/obsm/spatial" if xy is not None else "/obs/array_row"
        n_bad, first = (bad.size, kept[bad[0]]) if bad.size else (kept.size, kept[0])
        what = f"{n_bad:,} of {kept.size:,} rows are not finite (first: row {first})"
        if xy is None:
            what = f"array coordinates of {n_bad:,} spots are not all whole numbers"
        fix = "drop those spots, or give obs['array_row'] and obs['array_col'] for all"
        fault = SourceFaultError("B048", field_name, what, fix)
        raise BadInputError(fault.problem(record.name, record.path))
    if not bad.size:
        return array, xy, ()
    notice = Notice(
        code="B048",
        subject=f"slice '{record.name}'",
        what=f"{bad.size:,} of {kept.size:,} spots have no finite position; array coordinates "
        "are used for the whole slice",
    )
    return array, None, (notice,)


def _notices(record: SliceRecord, ledger: dict[str, int], genes: Sequence[str]) -> list[Notice]:
    subject = f"slice '{record.name}'"
    found = []
    if ledger["spots_without_counts"]:
        what = f"{ledger['spots_without_counts']:,} spots have no counts: dropped as unobserved"
        found.append(Notice(code="B045", subject=subject, what=what))
    if ledger["spots_off_tissue"]:
        what = f"{ledger['spots_off_tissue']:,} spots are off the tissue: dropped"
        found.append(Notice(code="B061", subject=subject, what=what))
    if ledger["genes_duplicated"]:
        twice = sorted(name for name, times in Counter(genes).items() if times > 1)
        what = (
            f"{ledger['genes_duplicated']:,} genes share an id with another "
            f"({', '.join(twice[:5])}): left out, "
            f"{ledger['molecules_duplicated_genes']:,} molecules stay in the library sizes; "
            "--gene-id-column may hold unique ids"
        )
        found.append(Notice(code="B067", subject=subject, what=what))
    return found
