"""Count matrices of an ``.h5ad`` file: structure and values checked before anything is summed.

SciPy trusts its indices and crashes or silently miscounts on bad ones, so the structure is checked
with plain NumPy first. Values must be counts: finite, not negative, whole.
"""

from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.hdf5 import child

_ROWS_AT_ONCE: Final = 64 * 2**20
"""Bytes of a dense matrix that are read at a time."""
_LOG_MAXIMUM: Final = 25.0
"""Largest value that log1p of a count can plausibly reach."""
_MAX_COUNT: Final = 2**31 - 1


def read_counts(node: Any, shape: tuple[int, int]) -> csr_array:  # noqa: ANN401 - h5py is untyped
    """Read a matrix of counts, stored as CSR, CSC or dense, of any integer-valued type.

    Parameters
    ----------
    node
        Group (sparse) or dataset (dense).
    shape
        (n_obs, n_vars) that the rest of the file implies.

    Returns
    -------
    scipy.sparse.csr_array
        (n_obs, n_vars) uint32, sorted indices, explicit zeros dropped.

    Raises
    ------
    SourceFaultError
        A broken structure, another shape, or values that are not counts.
    """
    if isinstance(node, h5py.Dataset):
        return _read_dense(node, shape)
    encoding = str(node.attrs.get("encoding-type", ""))
    if encoding not in ("csr_matrix", "csc_matrix"):
        what = f"expected a matrix (csr_matrix, csc_matrix or dense), got {encoding or 'a group'}"
        raise SourceFaultError("B023", node.name, what, "write it with anndata")
    stored = tuple(int(n) for n in node.attrs.get("shape", ()))
    if stored != shape:
        what = f"shape {stored}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", node.name, what, "the file is damaged: write it again")
    is_csr = encoding == "csr_matrix"
    major, minor = shape if is_csr else shape[::-1]
    indptr, indices = _read_structure(node, major, minor)
    values = to_counts(child(node, "data")[:], f"{node.name}/data", indices.shape[0])
    matrix = (csr_array if is_csr else csc_array)((values, indices, indptr), shape=shape)
    rows = csr_array(matrix.tocsr())
    rows.sort_indices()
    _refuse_duplicates(rows, node.name)
    rows.eliminate_zeros()
    return rows


def _read_structure(
    node: h5py.Group, major: int, minor: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    fix = "the file is damaged: get it again, or write it again with anndata"
    pointers, columns = child(node, "indptr"), child(node, "indices")
    if pointers.dtype.kind not in "iu" or columns.dtype.kind not in "iu":
        raise SourceFaultError("B035", node.name, "sparse indices are not integers", fix)
    indptr = np.asarray(pointers[:], np.int64)
    n_stored = columns.shape[0]
    ends = indptr.shape == (major + 1,) and indptr[0] == 0 and indptr[-1] == n_stored
    if not ends or bool(np.any(np.diff(indptr) < 0)):
        what = f"sparse structure invalid: row starts do not rise from 0 to {n_stored:,}"
        raise SourceFaultError("B035", pointers.name, what, fix)
    indices = np.asarray(columns[:], np.int64)
    outside = np.flatnonzero((indices < 0) | (indices >= minor))
    if outside.size:
        first = int(outside[0])
        what = (
            f"sparse structure invalid: {outside.size:,} of {n_stored:,} indices lie outside "
            f"0..{minor - 1} (first: [{first}] = {indices[first]})"
        )
        raise SourceFaultError("B034", columns.name, what, fix)
    return indptr, indices.astype(np.int32)


def _refuse_duplicates(rows: csr_array, name: str) -> None:
    # After sorting, a repeated column stands beside its twin within the same row.
    same = np.diff(rows.indices) == 0
    starts = rows.indptr[1:-1]
    same[starts[(starts > 0) & (starts <= same.size)] - 1] = False
    if n := int(np.count_nonzero(same)):
        what = f"{n:,} duplicate entries: a spot stores a gene twice"
        raise SourceFaultError("B036", name, what, "sum or drop them before writing the file")


def _read_dense(dataset: h5py.Dataset, shape: tuple[int, int]) -> csr_array:
    if dataset.shape != shape:
        what = f"shape {dataset.shape}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", dataset.name, what, "the file is damaged: write it again")
    n_rows = max(1, _ROWS_AT_ONCE // max(1, shape[1] * dataset.dtype.itemsize))
    data: list[NDArray[np.uint32]] = []
    indices: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for start in range(0, shape[0], n_rows):
        block = dataset[start : start + n_rows]
        counts = to_counts(block.ravel(), dataset.name, block.size).reshape(block.shape)
        rows, cols = np.nonzero(counts)
        data.append(counts[rows, cols])
        indices.append(cols.astype(np.int32))
        lengths.append(np.bincount(rows, minlength=block.shape[0]))
    indptr = np.cumsum(np.concatenate(lengths))
    values = np.concatenate(data) if data else np.zeros(0, np.uint32)
    columns = np.concatenate(indices) if indices else np.zeros(0, np.int32)
    return csr_array((values, columns, indptr), shape=shape)


def to_counts(values: NDArray[Any], name: str, expected: int) -> NDArray[np.uint32]:
    """Return values as counts, or say why they are none.

    Parameters
    ----------
    values
        Stored values of any type, one-dimensional.
    name
        Where they stand in the source, for messages.
    expected
        How many there must be.

    Raises
    ------
    SourceFaultError
        Another number of values; not numbers, not finite, negative, not whole, or above 2^31 - 1.
    """
    if values.shape != (expected,):
        what = f"{values.shape} values for {expected:,} indices"
        raise SourceFaultError("B035", name, what, "the file is damaged: write it again")
    if values.dtype.kind not in "biuf":
        what = f"values of type {values.dtype}, expected counts"
        raise SourceFaultError("B033", name, what, "store integer counts")
    fix = "give raw counts: --layer NAME, or 'raw'; `stbuild plan` lists what looks like counts"
    if values.dtype.kind == "f":
        _require(np.isfinite(values), values, name, "B028", "are NaN or infinite", fix)
    if values.dtype.kind in "if":
        _require(values >= 0, values, name, "B029", "are negative", fix)
    if values.dtype.kind == "f":
        whole = values == np.floor(values)
        looks = ""
        if not whole.all() and float(values.max(initial=0)) < _LOG_MAXIMUM:
            looks = "; looks log-normalised"
        _require(whole, values, name, "B030", f"are not whole numbers{looks}", fix)
    _require(values <= _MAX_COUNT, values, name, "B031", f"exceed {_MAX_COUNT:,}", fix)
    return values.astype(np.uint32)


def _require(
    good: NDArray[np.bool_], values: NDArray[Any], name: str, code: str, what: str, fix: str
) -> None:
    if good.all():
        return
    first = int(np.argmin(good))
    n_bad = good.size - int(np.count_nonzero(good))
    text = f"{n_bad:,} of {good.size:,} stored values {what} (first: {values[first]})"
    raise SourceFaultError(code, name, text, fix)
