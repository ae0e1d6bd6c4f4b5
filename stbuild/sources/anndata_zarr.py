"""The AnnData-Zarr reader (Zarr v2 and v3 folders): the same meaning as ``.h5ad``.

Only what is needed is read. How a foreign store is opened is in :mod:`stbuild.sources.zarr_store`,
what columns mean in :mod:`stbuild.sources.anndata_columns`.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from anndata import OldFormatWarning
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import (
    Labels,
    check_positions,
    is_whole,
    position_key,
    read_gene_ids,
    read_gene_types,
    read_labels,
    read_places,
    read_planes,
    read_sections,
    require_part,
)
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.h5ad_frames import decode_categories
from stbuild.sources.ids import require_spots
from stbuild.sources.matrices import read_dense, read_sparse
from stbuild.sources.raw import RawSlice
from stbuild.sources.values import to_id
from stbuild.sources.zarr_store import (
    FIX,
    StoredArray,
    find,
    guard,
    list_files,
    list_names,
    open_inside,
    open_store,
    place_of,
)

_NOT_COUNTS: Final = ("B028", "B029", "B030")


class ZarrFrame:
    """One data frame of the store (``obs`` or ``var``), column by column."""

    def __init__(self, root: zarr.Group, path: str) -> None:
        self.where = f"/{path}"
        self.group = open_inside(root, path)
        self._index = str(self.group.attrs.get("_index", "_index"))

    def columns(self) -> list[str]:
        """Return the names of the columns, sorted, without the index."""
        return sorted({*list_names(self.group, "/")} - {self._index, "__categories"})

    def index(self) -> list[str]:
        """Return the index as text; an id that is missing would read as empty text."""
        node = find(self.group, self._index)
        if isinstance(node, zarr.Array):
            StoredArray(node, f"{self.where}/{self._index}").require_chunks()
        return [to_id(value) for value in self.read(self._index)]

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a pandas column
        """Return one column as anndata reads it, or as anndata 0.7 wrote its categories."""
        where, node = f"{self.where}/{column}", find(self.group, column)
        old = isinstance(node, zarr.Array) and guard(lambda: "categories" in node.attrs, where)
        if not old:
            return read_element(self.group, column, where)
        codes = StoredArray(node, where)
        categories = read_element(self.group, f"__categories/{column}", where)
        if len(categories) != 1:
            codes.require_chunks()
        return decode_categories(codes[:], categories, where)


def looks_like_anndata_zarr(path: Path) -> bool:
    """Tell by names alone whether a folder is an AnnData-Zarr store."""
    is_group = any((path / name).is_file() for name in (".zgroup", "zarr.json"))
    return is_group and (path / "obs").is_dir() and (path / "var").is_dir()


def read_element(group: zarr.Group, name: str, where: str) -> Any:  # noqa: ANN401 - any element
    """Read one element with anndata after checking its arrays.

    A chunk of nothing but zeros is usually not written, so a missing one is no fault by itself;
    it is one among the codes of several categories, where it would silently mean the first.

    Raises
    ------
    SourceFaultError
        B006: it is not there. B079: anndata cannot read it. B004, B016, B043: its arrays.
    """
    node = find(group, name)
    if node is None:
        raise SourceFaultError("B006", where, f"no '{name}' there", FIX)
    if isinstance(node, zarr.Array):
        StoredArray(node, where)
    else:
        parts = {part: find(node, part) for part in list_names(node, "/")}
        arrays = {
            part: StoredArray(array, f"{where}/{part}")
            for part, array in parts.items()
            if isinstance(array, zarr.Array)
        }
        if "codes" in arrays and "categories" in arrays and arrays["categories"].shape != (1,):
            arrays["codes"].require_chunks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        return guard(lambda: read_elem(node), where, "B079")


def read_anndata_zarr(
    record: SliceRecord, config: GridConfig, scratch: Path | None = None
) -> RawSlice:
    """Read one AnnData-Zarr store, or the one section of it that the record names.

    Raises
    ------
    BadInputError
        Every fault of the store at once.
    SourceFaultError
        It is no AnnData store.
    """
    return read_table_group(record, config, open_store(Path(record.path)), scratch)


def read_table_group(
    record: SliceRecord,
    config: GridConfig,
    root: zarr.Group,
    scratch: Path | None,
    positions: NDArray[np.float64] | None = None,
) -> RawSlice:
    """Read an AnnData in a Zarr group, which may be a table of a larger store.

    Parameters
    ----------
    record, config
        The slice and how to read it.
    root
        The group with obs, var and the matrix.
    scratch
        Folder for counts that do not fit into memory.
    positions
        (N, 2) places of the rows, where they do not stand in the group itself.

    Returns
    -------
    RawSlice
        With the files of the group.

    Raises
    ------
    BadInputError
        Every fault of the group at once.
    """
    faults = Faults()
    matrix, var_path = _locate(root, config.layer)
    obs, var = ZarrFrame(root, "obs"), ZarrFrame(root, var_path)
    barcodes = faults.attempt(obs.index)
    ids = faults.attempt(lambda: read_gene_ids(var, config.gene_id_column))
    types = faults.attempt(lambda: read_gene_types(var))
    if barcodes is None:  # nothing else of obs can be judged
        raise faults.error(record.name, record.path)
    n = len(barcodes)
    places = faults.attempt(
        lambda: read_places(
            obs,
            _positions(root, n) if positions is None else positions,
            n,
            needed=record.positions is None,
            obsm=list_names(root, "obsm"),
        )
    )
    labels = faults.attempt(lambda: read_labels(obs, record, config, n)) or Labels()
    sections = faults.attempt(lambda: read_sections(obs, record.split_by, n))
    depths = None if places is None else places.depths
    planes = faults.attempt(lambda: read_planes(obs, n, depths))
    found = None
    if ids is not None:
        if is_whole(record):
            faults.attempt(lambda: require_spots(barcodes))
        shape = (len(barcodes), len(ids[0]))
        found = faults.attempt(lambda: _counts(root, matrix, shape, scratch, config))
    if faults.found or ids is None or places is None or found is None:
        raise faults.error(record.name, record.path)
    counts, said = found
    raw = RawSlice(
        counts=counts,
        barcodes=barcodes,
        genes=ids[0],
        gene_names=ids[1],
        gene_types=types,
        array=places.array,
        xy=places.xy,
        unit=places.unit,
        in_tissue=places.in_tissue,
        labels=labels.values,
        files=list_files([place_of(root)]),
        notices=(
            *(Notice(code="B004", subject=f"slice '{record.name}'", what=what) for what in said),
            *labels.notices,
        ),
        sections=sections,
        planes=planes,
    )
    return require_part(raw, record, scratch)


def _locate(root: zarr.Group, layer: str | None) -> tuple[str, str]:
    path, var = _path_of(layer or "X"), "raw/var" if layer == "raw" else "var"
    if find(root, path) is None:
        what = f"no counts in {path}; matrices present: {', '.join(_matrices(root)) or 'none'}"
        raise SourceFaultError("B023", f"/{path}", what, "name one of them with --layer")
    return path, var


def _path_of(layer: str) -> str:
    return {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")


def _matrices(root: zarr.Group) -> list[str]:
    """Return what --layer may name."""
    found = [name for name in ("X", "raw") if find(root, _path_of(name)) is not None]
    return found + list_names(root, "layers")


def _counts(
    root: zarr.Group, path: str, shape: tuple[int, int], scratch: Path | None, config: GridConfig
) -> tuple[csr_array, list[str]]:
    """Return the counts, and what the user should know about them."""
    node, where = find(root, path), f"/{path}"
    try:
        if isinstance(node, zarr.Array):
            return _read_dense(StoredArray(node, where), shape)
        if isinstance(node, zarr.Group):
            return _read_sparse(node, where, shape, scratch, config), []
    except SourceFaultError as fault:
        if fault.code not in _NOT_COUNTS:
            raise
        others = [name for name in _matrices(root) if _looks_like_counts(root, name)]
        advice = "give a store with raw counts; no other matrix of this one holds counts"
        if others:
            named = ", ".join(f"'{name}'" for name in others)
            advice = f"{named} looks like counts: pass --layer {others[0]}"
        raise SourceFaultError(fault.code, fault.field, fault.what, advice) from None
    raise SourceFaultError("B023", where, "no matrix there", "write it with anndata")


def _read_dense(array: StoredArray, shape: tuple[int, int]) -> tuple[csr_array, list[str]]:
    said = []
    if missing := guard(array.missing, array.where):
        said.append(
            f"{missing:,} chunks of the dense matrix {array.where} are not stored and were read as "
            "zeros, which is how Zarr stores nothing but zeros; a damaged copy looks the same"
        )
    return read_dense(array, shape, array.where), said


def _read_sparse(
    node: zarr.Group, where: str, shape: tuple[int, int], scratch: Path | None, config: GridConfig
) -> csr_array:
    encoding = str(node.attrs.get("encoding-type", ""))
    if encoding not in ("csr_matrix", "csc_matrix"):
        what = f"expected csr_matrix, csc_matrix or a dense array, got {encoding or 'a group'!r}"
        raise SourceFaultError("B023", where, what, "write it with anndata")
    sides = np.asarray(guard(lambda: node.attrs["shape"], where)).ravel()
    stored = tuple(sides.tolist())
    if stored != shape:
        what = f"shape {stored!s:.60}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", where, what, FIX)
    data, indices, indptr = (_part(node, name, where) for name in ("data", "indices", "indptr"))
    # Nothing stored: the row starts are all zero, and zeros alone are usually not written.
    for array in (data, indices, *([indptr] if data.shape != (0,) else [])):
        array.require_chunks()
    return read_sparse(
        data,
        indices,
        indptr,
        shape,
        where,
        scratch,
        by_row=encoding == "csr_matrix",
        sum_duplicates=config.sum_duplicates,
    )


def _part(node: zarr.Group, name: str, where: str) -> StoredArray:
    array = find(node, name)
    if not isinstance(array, zarr.Array) or array.ndim != 1:
        raise SourceFaultError("B035", where, f"no one-dimensional array '{name}' there", FIX)
    return StoredArray(array, f"{where}/{name}")


def _looks_like_counts(root: zarr.Group, name: str) -> bool:
    node = find(root, _path_of(name))
    data = find(node, "data") if isinstance(node, zarr.Group) else node
    try:
        sample = np.asarray(StoredArray(data, name)[:100], np.float64)
    except (SourceFaultError, ValueError, TypeError, AttributeError):
        return False
    whole = np.isfinite(sample) & (sample >= 0) & (sample == np.floor(sample))
    return bool(whole.all())


def _positions(root: zarr.Group, n_spots: int) -> NDArray[np.float64] | None:
    key = position_key(list_names(root, "obsm"))
    if key is None:
        return None
    where = f"/obsm/{key}"
    node = find(root, where)
    if isinstance(node, zarr.Array):
        StoredArray(node, where).require_chunks()
    return check_positions(read_element(open_inside(root, "obsm"), key, where), n_spots, where)
