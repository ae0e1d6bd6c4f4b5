"""Count matrices of HDF5 files: structure and values checked before anything is summed.

SciPy trusts its indices and crashes or silently miscounts on bad ones, so the structure is checked
with plain NumPy first. Values must be counts: finite, not negative, whole. Large matrices are read
band by band into scratch files.
"""

from pathlib import Path
from typing import Any, Final, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from stbuild.counts import allocate, as_csr, bands
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.hdf5 import attribute, child, has

_AT_ONCE: Final = 8 * 2**20
"""Stored values that are read at a time."""
_ROWS_AT_ONCE: Final = 64 * 2**20
"""Bytes of a dense matrix that are read at a time."""
_LOG_MAXIMUM: Final = 25.0
"""Largest value that log1p of a count can plausibly reach."""
_MAX_COUNT: Final = 2**31 - 1
_DAMAGED: Final = "the file is damaged: get it again, or write it again"


class Stored(Protocol):
    """A one-dimensional array on disk, of HDF5 or Zarr."""

    @property
    def shape(self) -> Any:  # noqa: ANN401 - both libraries are loosely typed
        """Sides."""
        ...

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """Type of the values."""
        ...

    def __getitem__(self, key: Any, /) -> Any:  # noqa: ANN401 - both libraries are loosely typed
        """Return some values."""
        ...


def read_counts(
    node: Any,  # noqa: ANN401 - h5py is untyped
    shape: tuple[int, int],
    scratch: Path | None = None,
    *,
    sum_duplicates: bool = False,
) -> csr_array:
    """Read a matrix of counts, stored as CSR, CSC or dense, of any integer-valued type.

    Parameters
    ----------
    node
        Group (sparse) or dataset (dense).
    shape
        (n_obs, n_vars) that the rest of the file implies.
    scratch
        Folder for a matrix that does not fit into memory; CSC and dense ones are built there too
        only where they are small.
    sum_duplicates
        Sum entries that stand twice instead of refusing them.

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
        return read_dense(node, shape, node.name)
    encoding = attribute(node, "encoding-type")
    if old := attribute(node, "h5sparse_format"):  # before anndata 0.7
        encoding = f"{old}_matrix"
    if encoding not in ("csr_matrix", "csc_matrix"):
        what = f"expected a matrix (csr_matrix, csc_matrix or dense), got {encoding or 'a group'}"
        raise SourceFaultError("B023", node.name, what, "write it with anndata")
    sides = np.asarray(node.attrs.get("shape", node.attrs.get("h5sparse_shape", ())))
    if (stored := tuple(sides.ravel().tolist())) != shape:
        what = f"shape {stored!s:.60}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", node.name, what, _DAMAGED)
    data, indices, indptr = (_open_part(node, part) for part in ("data", "indices", "indptr"))
    return read_sparse(
        data,
        indices,
        indptr,
        shape,
        node.name,
        scratch,
        by_row=encoding == "csr_matrix",
        sum_duplicates=sum_duplicates,
    )


def _open_part(node: Any, part: str) -> Any:  # noqa: ANN401 - h5py is untyped
    """Return one of the arrays of a sparse matrix."""
    if not has(node, part):
        raise SourceFaultError("B035", f"{node.name}/{part}", f"no {part} there", _DAMAGED)
    array = child(node, part)
    if not isinstance(array, h5py.Dataset) or array.ndim != 1:
        shape = array.shape if isinstance(array, h5py.Dataset) else "a group"
        what = f"expected a list of numbers, got {shape}"
        raise SourceFaultError("B035", f"{node.name}/{part}", what, _DAMAGED)
    return array


def read_sparse(
    data: Stored,
    indices: Stored,
    indptr: Stored,
    shape: tuple[int, int],
    name: str,
    scratch: Path | None,
    *,
    by_row: bool = True,
    sum_duplicates: bool = False,
) -> csr_array:
    """Read compressed sparse counts from three arrays on disk, whatever library opened them.

    Parameters
    ----------
    data, indices, indptr
        The arrays, one-dimensional.
    shape
        (n_obs, n_vars).
    name
        Where they stand in the source, for messages.
    scratch
        Folder for what does not fit into memory.
    by_row
        Whether `indptr` runs over spots (CSR) or over genes (CSC).
    sum_duplicates
        Sum entries that stand twice instead of refusing them.

    Raises
    ------
    SourceFaultError
        B033 to B036 and B028 to B031: the structure is broken, or values are not counts.
    """
    major, minor = shape if by_row else shape[::-1]
    starts = _read_starts(indptr, indices, major, name)
    n = int(starts[-1])
    if data.shape != (n,):
        what = f"{data.shape} values for {n:,} indices"
        raise SourceFaultError("B035", f"{name}/data", what, _DAMAGED)
    values = allocate(n, np.uint32, scratch)
    columns = allocate(n, np.int32, scratch)
    for start in range(0, n, _AT_ONCE):
        part = np.s_[start : min(start + _AT_ONCE, n)]
        block = _fetch(indices, columns, part)
        columns[part] = _check_indices(block, minor, f"{name}/indices", start, n)
        block = _fetch(data, values, part)
        values[part] = to_counts(block, f"{name}/data", block.shape[0])
    if by_row:
        rows = as_csr(values, columns, starts, shape)
    else:
        rows = csr_array(csc_array((values, columns, starts), shape=shape).tocsr())
    return _settle(rows, name, scratch, sum_duplicates=sum_duplicates)


def _fetch(stored: Stored, out: NDArray[Any], part: slice) -> NDArray[Any]:
    """Return some values; 32-bit integers of HDF5 are read to where they will stay."""
    if isinstance(stored, h5py.Dataset) and stored.dtype == np.int32 and len(stored.shape) == 1:
        block = out.view(np.int32)[part]
        if block.size:
            stored.read_direct(out.view(np.int32), part, part)
        return block
    return np.asarray(stored[part])


def _read_starts(indptr: Stored, indices: Stored, major: int, name: str) -> NDArray[np.int64]:
    if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise SourceFaultError("B035", name, "sparse indices are not integers", _DAMAGED)
    starts = np.asarray(indptr[:], np.int64)
    n_stored = int(indices.shape[0])
    ends = starts.shape == (major + 1,) and starts[0] == 0 and starts[-1] == n_stored
    if not ends or bool(np.any(np.diff(starts) < 0)):
        what = f"sparse structure invalid: row starts do not rise from 0 to {n_stored:,}"
        raise SourceFaultError("B035", f"{name}/indptr", what, _DAMAGED)
    return starts


def _check_indices(
    block: NDArray[Any], minor: int, name: str, start: int, n: int
) -> NDArray[np.int32]:
    # Two numbers tell whether any is bad; only then is each looked at.
    if block.size and not 0 <= int(block.min()) <= int(block.max()) < minor:
        outside = np.flatnonzero((block < 0) | (block >= minor))
        first = int(outside[0])
        what = (
            f"sparse structure invalid: {outside.size:,} of {n:,} indices lie outside "
            f"0..{minor - 1} (first: [{start + first}] = {block[first]})"
        )
        raise SourceFaultError("B034", name, what, _DAMAGED)
    return block.astype(np.int32, copy=False)


def _settle(rows: csr_array, name: str, scratch: Path | None, *, sum_duplicates: bool) -> csr_array:
    """Sort each row, refuse or sum repeated entries, drop explicit zeros; band by band."""
    n_twice = 0 if rows.has_canonical_format else _sort_rows(rows)
    n_zero = rows.data.size - int(np.count_nonzero(rows.data))
    if n_twice and not sum_duplicates:
        what = f"{n_twice:,} duplicate entries: a spot stores a gene twice"
        fix = "sum or drop them before writing the file, or pass --sum-duplicates"
        raise SourceFaultError("B036", name, what, fix)
    rows.has_sorted_indices = True
    if n_twice:
        molecules = int(rows.data.sum(dtype=np.int64))
        rows.sum_duplicates()
        if int(rows.data.sum(dtype=np.int64)) != molecules:
            what = f"entries that stand twice sum to more than {2**32 - 1:,}"
            raise SourceFaultError("B031", f"{name}/data", what, "give raw counts")
    if n_zero:
        rows.eliminate_zeros()
    return rows


def _sort_rows(rows: csr_array) -> int:
    """Sort each row in place, and return how many entries repeat another."""
    n_twice = 0
    for start, stop in bands(rows.indptr):
        part = np.s_[int(rows.indptr[start]) : int(rows.indptr[stop])]
        # Only a band is ever copied: csr_array copies what is a small part of another array.
        band = csr_array(
            (rows.data[part], rows.indices[part], rows.indptr[start : stop + 1] - part.start),
            shape=(stop - start, rows.shape[1]),
        )
        if not band.has_sorted_indices:
            band.sort_indices()
            rows.data[part], rows.indices[part] = band.data, band.indices
        n_twice += _count_duplicates(band)
    return n_twice


def _count_duplicates(rows: csr_array) -> int:
    # After sorting, a repeated column stands beside its twin within the same row.
    same = np.diff(rows.indices) == 0
    starts = rows.indptr[1:-1]
    same[starts[(starts > 0) & (starts <= same.size)] - 1] = False
    return int(np.count_nonzero(same))


def read_dense(array: Stored, shape: tuple[int, int], name: str) -> csr_array:
    """Read a dense matrix of counts by blocks of rows.

    Raises
    ------
    SourceFaultError
        Another shape, or values that are not counts.
    """
    if tuple(array.shape) != shape:
        what = f"shape {array.shape}, but obs and var have {shape[0]:,} and {shape[1]:,} entries"
        raise SourceFaultError("B041", name, what, _DAMAGED)
    n_rows = max(1, _ROWS_AT_ONCE // max(1, shape[1] * array.dtype.itemsize))
    data: list[NDArray[np.uint32]] = []
    indices: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for start in range(0, shape[0], n_rows):
        block = array[start : start + n_rows]
        counts = to_counts(block.ravel(), name, block.size).reshape(block.shape)
        rows, cols = np.nonzero(counts)
        data.append(counts[rows, cols])
        indices.append(cols.astype(np.int32))
        lengths.append(np.bincount(rows, minlength=block.shape[0]))
    indptr = np.cumsum(np.concatenate(lengths))
    values = np.concatenate(data) if data else np.zeros(0, np.uint32)
    columns = np.concatenate(indices) if indices else np.zeros(0, np.int32)
    return as_csr(values, columns, indptr, shape)


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
        raise SourceFaultError("B035", name, what, _DAMAGED)
    if values.dtype.kind not in "biuf":
        what = f"values of type {values.dtype}, expected counts"
        raise SourceFaultError("B033", name, what, "store integer counts")
    fix = "give raw counts: --layer NAME, or 'raw'; `stbuild plan` lists what looks like counts"
    if _are_counts(values):
        return values.view(np.uint32) if values.dtype == np.int32 else values.astype(np.uint32)
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
    if values.dtype.itemsize >= 4:
        _require(values <= _MAX_COUNT, values, name, "B031", f"exceed {_MAX_COUNT:,}", fix)
    return values.astype(np.uint32)


def _are_counts(values: NDArray[Any]) -> bool:
    """Tell by the least and the largest whether integers are counts; floats take more."""
    if values.dtype.kind not in "iu" or not values.size:
        return False
    return 0 <= int(values.min()) <= int(values.max()) <= _MAX_COUNT


def _require(
    good: NDArray[np.bool_], values: NDArray[Any], name: str, code: str, what: str, fix: str
) -> None:
    if good.all():
        return
    first = int(np.argmin(good))
    n_bad = good.size - int(np.count_nonzero(good))
    text = f"{n_bad:,} of {good.size:,} stored values {what} (first: {values[first]})"
    raise SourceFaultError(code, name, text, fix)
