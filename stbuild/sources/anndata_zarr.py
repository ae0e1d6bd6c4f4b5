"""The AnnData-Zarr reader (Zarr v2 and v3 folders): the same meaning as ``.h5ad``.

A missing chunk reads as zeros without an error, so the chunks of everything that counts are
looked for first. Nothing outside the store is followed.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.slices import SliceRecord
from stbuild.sources.anndata_columns import (
    check_positions,
    read_gene_ids,
    read_labels,
    read_places,
    read_sections,
    require_part,
)
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.ids import require_spots
from stbuild.sources.matrices import read_dense, read_sparse
from stbuild.sources.raw import RawSlice

_BOMB_BYTES: Final = 4 * 2**30
_BOMB_RATIO: Final = 1000
_FIX: Final = "copy the store again, or write it again with anndata"


class ZarrFrame:
    """One data frame of the store (``obs`` or ``var``), column by column."""

    def __init__(self, root: zarr.Group, path: str) -> None:
        self.where = f"/{path}"
        self.group = open_inside(root, path)

    def columns(self) -> list[str]:
        """Return the names of the columns, sorted, without the index."""
        return sorted(set(self.group) - {self._index_name(), "__categories"})

    def index(self) -> list[str]:
        """Return the index as text."""
        return [str(value) for value in self.read(self._index_name())]

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a pandas column
        """Return one column as anndata reads it."""
        return read_zarr(self.group, column, self.where)

    def _index_name(self) -> str:
        return str(self.group.attrs.get("_index", "_index"))


def read_zarr(group: zarr.Group, name: str, where: str) -> Any:  # noqa: ANN401 - any element
    """Read one element with anndata after checking that all its chunks are there.

    Raises
    ------
    SourceFaultError
        It is not there, damaged, or of an encoding that anndata does not know.
    """
    if name not in group:
        raise SourceFaultError("B006", where, f"no '{name}' there", _FIX)
    node = group[name]
    for array in [node] if isinstance(node, zarr.Array) else _arrays(node):
        check_array(array, f"{where}/{name}")
    try:
        return read_elem(node)
    except Exception as error:  # noqa: BLE001 - a foreign store can make anndata raise anything
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise SourceFaultError("B079", f"{where}/{name}", f"unreadable: {said}", _FIX) from None


def _arrays(group: zarr.Group) -> list[Any]:
    return [node for _, node in group.members() if isinstance(node, zarr.Array)]


def check_array(array: Any, where: str) -> None:  # noqa: ANN401 - zarr is loosely typed
    """Check that all chunks of an array are stored, and that it is not a bomb.

    Raises
    ------
    SourceFaultError
        B004: a chunk is missing. B043: it declares far more than is stored.
    """
    declared = int(np.prod(array.shape, dtype=object)) * max(1, array.dtype.itemsize)
    if declared > _BOMB_BYTES and declared > _BOMB_RATIO * max(1, array.nbytes_stored()):
        what = f"shape {array.shape} declares {declared:,} bytes, few are stored"
        raise SourceFaultError("B043", where, what, "the store is damaged or hostile")
    missing = array.nchunks - array.nchunks_initialized
    if missing and array.size:
        what = f"{missing:,} of {array.nchunks:,} chunks are missing; they would read as zeros"
        raise SourceFaultError("B004", where, what, _FIX)


def open_store(path: Path) -> zarr.Group:
    """Open a Zarr folder for reading, after checking that nothing in it leads elsewhere.

    Raises
    ------
    SourceFaultError
        B015: a symbolic link. B003: no Zarr group.
    """
    if link := next((file for file in sorted(path.rglob("*")) if file.is_symlink()), None):
        what = f"{link.relative_to(path)} is a symbolic link"
        raise SourceFaultError("B015", "", what, "copy the data into the store itself")
    try:
        # Consolidated metadata may tell of what is not there any more.
        return zarr.open_group(path, mode="r", use_consolidated=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise SourceFaultError("B003", "", f"not a Zarr group: {said}", _FIX) from None


def open_inside(root: zarr.Group, path: str) -> zarr.Group:
    """Return a group of a store.

    Raises
    ------
    SourceFaultError
        B006: there is none.
    """
    node = root.get(path)
    if not isinstance(node, zarr.Group):
        what = f"not an AnnData store: no group {path}"
        raise SourceFaultError("B006", f"/{path}", what, "give a store written by anndata")
    return node


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

    Raises
    ------
    BadInputError
        Every fault of the group at once.
    """
    faults = Faults()
    matrix, var_path = _locate(root, config.layer)
    obs, var = ZarrFrame(root, "obs"), ZarrFrame(root, var_path)
    barcodes = faults.attempt(obs.index)
    n = len(barcodes or ())
    ids = faults.attempt(lambda: read_gene_ids(var, config.gene_id_column))
    places = faults.attempt(
        lambda: read_places(obs, _positions(root, n) if positions is None else positions, n)
    )
    labels = None
    if (label := config.label) is not None and record.labels_file is None:
        labels = faults.attempt(lambda: read_labels(obs, label, n))
    sections = faults.attempt(lambda: read_sections(obs, record.split_by, n))
    counts = None
    if barcodes is not None and ids is not None:
        faults.attempt(lambda: require_spots(barcodes))
        shape = (len(barcodes), len(ids[0]))
        counts = faults.attempt(lambda: _counts(root, matrix, shape, scratch, config))
    if faults.found or barcodes is None or ids is None or places is None or counts is None:
        raise faults.error(record.name, record.path)
    raw = RawSlice(
        counts=counts,
        barcodes=barcodes,
        genes=ids[0],
        gene_names=ids[1],
        array=places.array,
        xy=places.xy,
        in_tissue=places.in_tissue,
        labels=labels,
        files=tuple(sorted(file for file in Path(record.path).rglob("*") if file.is_file())),
        sections=sections,
    )
    return require_part(raw, record, scratch)


def _locate(root: zarr.Group, layer: str | None) -> tuple[str, str]:
    path, var = "X", "var"
    if layer == "raw":
        path, var = "raw/X", "raw/var"
    elif layer is not None and layer != "X":
        path = f"layers/{layer}"
    if path not in root:
        present = [name for name in ("X", "raw/X") if name in root]
        present += [f"layers/{name}" for name in list_names(root, "layers")]
        what = f"no counts in {path}; matrices present: {', '.join(present) or 'none'}"
        raise SourceFaultError("B023", f"/{path}", what, "name one of them with --layer")
    return path, var


def list_names(root: zarr.Group, path: str) -> list[str]:
    """Return the names inside a group of a store, sorted; none where there is no such group."""
    node = root.get(path)
    return sorted(node) if isinstance(node, zarr.Group) else []


def _counts(
    root: zarr.Group, path: str, shape: tuple[int, int], scratch: Path | None, config: GridConfig
) -> csr_array:
    node = root[path]
    if isinstance(node, zarr.Array):
        check_array(node, f"/{path}")
        return read_dense(node, shape, f"/{path}")
    encoding = str(node.attrs.get("encoding-type", ""))
    if encoding not in ("csr_matrix", "csc_matrix"):
        what = f"expected csr_matrix, csc_matrix or a dense array, got {encoding or 'a group'}"
        raise SourceFaultError("B023", f"/{path}", what, "write it with anndata")
    stored = tuple(int(n) for n in np.asarray(node.attrs.get("shape", ())).ravel())
    if stored != shape:
        what = f"shape {stored}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", f"/{path}", what, _FIX)
    data, indices, indptr = (_part(node, name, path) for name in ("data", "indices", "indptr"))
    return read_sparse(
        data,
        indices,
        indptr,
        shape,
        f"/{path}",
        scratch,
        by_row=encoding == "csr_matrix",
        sum_duplicates=config.sum_duplicates,
    )


def _part(node: zarr.Group, name: str, path: str) -> Any:  # noqa: ANN401 - zarr's arrays
    array = node.get(name)
    if not isinstance(array, zarr.Array):
        raise SourceFaultError("B035", f"/{path}", f"no array '{name}' there", _FIX)
    check_array(array, f"/{path}/{name}")
    return array


def _positions(root: zarr.Group, n_spots: int) -> NDArray[np.float64] | None:
    for name in ("spatial", "X_spatial"):
        if f"obsm/{name}" in root:
            values = read_zarr(open_inside(root, "obsm"), name, "/obsm")
            return check_positions(values, n_spots, f"/obsm/{name}")
    return None
