"""Sparse counts larger than memory: CSR arrays whose values may lie in scratch files.

Everything works band by band, so that only a band is ever copied; what is large is mapped from an
unnamed file that vanishes with its last user. What the counts mean is not known here.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array

from stbuild.corpus.durable import guard_disk

BAND: Final = 4 * 2**20
"""Stored values that are handled at a time: 32 MiB of values and columns."""
_IN_MEMORY_BYTES: Final = 64 * 2**20
"""Arrays up to this size stay in memory."""


def allocate(n: int, dtype: DTypeLike, scratch: Path | None) -> NDArray[Any]:
    """Return an (n,) array to fill, in memory if it is small or no scratch folder is given.

    A large one is mapped from a file in `scratch` that has no name any more: its space is free
    again as soon as nobody uses the array.

    Raises
    ------
    ResourceError
        The disk of `scratch` cannot hold it.
    """
    size = n * np.dtype(dtype).itemsize
    if scratch is None or size <= _IN_MEMORY_BYTES:
        return np.zeros(n, dtype)
    return guard_disk(scratch, lambda: _map(n, np.dtype(dtype), scratch), needed=size)


def _map(n: int, dtype: np.dtype[Any], scratch: Path) -> NDArray[Any]:
    with tempfile.TemporaryFile(dir=scratch) as file:
        # Room is taken now: a mapped file that the disk cannot hold kills who writes in it.
        os.posix_fallocate(file.fileno(), 0, n * dtype.itemsize)
        return np.memmap(file, dtype, "r+", shape=(n,))


def bands(indptr: NDArray[Any], most: int = BAND) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) row ranges with at most `most` stored values, or one row each."""
    start, n = 0, indptr.size - 1
    while start < n:
        limit = int(indptr[start]) + most
        stop = max(start + 1, int(np.searchsorted(indptr, limit, side="right")) - 1)
        yield start, min(stop, n)
        start = min(stop, n)


def as_csr(
    data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int]
) -> csr_array:
    """Return a CSR array over the given arrays without copying them.

    SciPy wants row starts and columns of one type, so the starts take that of the columns
    wherever they fit.
    """
    kind = np.int32 if int(indptr[-1]) < 2**31 and shape[1] < 2**31 else np.int64
    starts = indptr.astype(kind, copy=False)
    return csr_array((data, indices.astype(kind, copy=False), starts), shape=shape)


def row_sums(counts: csr_array, columns: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the (N,) sums over all columns, or over those of a mask."""
    sums = np.zeros(counts.shape[0], np.int64)
    for start, stop in bands(counts.indptr):
        first, lengths = int(counts.indptr[start]), np.diff(counts.indptr[start : stop + 1])
        filled = np.flatnonzero(lengths)  # an empty row would take the value of the next
        if filled.size:
            part = np.s_[first : int(counts.indptr[stop])]
            data = counts.data[part]
            if columns is not None:
                data = data * columns[counts.indices[part]]
            edges = counts.indptr[start + filled] - first
            sums[start + filled] = np.add.reduceat(data, edges, dtype=np.int64)
    return sums


def column_sums(counts: csr_array, rows: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the (K,) sums over all rows, or over those of a mask; exact up to 2^53."""
    sums = np.zeros(counts.shape[1], np.float64)
    for start, stop in bands(counts.indptr):
        part = np.s_[int(counts.indptr[start]) : int(counts.indptr[stop])]
        weights = counts.data[part].astype(np.float64)
        if rows is not None and not rows[start:stop].all():
            weights *= np.repeat(rows[start:stop], np.diff(counts.indptr[start : stop + 1]))
        sums += np.bincount(counts.indices[part], weights, counts.shape[1])
    return sums.astype(np.int64)


def gather(
    counts: csr_array,
    rows: NDArray[np.int64],
    scratch: Path | None,
    *,
    groups: NDArray[np.int64] | None = None,
    column: NDArray[np.int64] | None = None,
    n_columns: int | None = None,
) -> csr_array:
    """Return some rows in a given order, optionally summed in groups and with columns renamed.

    Parameters
    ----------
    counts
        (N, K) uint32.
    rows
        (R,) rows to take, in the order of the result.
    scratch
        Folder for what does not fit into memory.
    groups
        (R,) ascending number of the result row that each taken row is added to; None keeps each
        row by itself.
    column
        (K,) new column of each column, -1 leaves it out; equal targets are summed. None keeps all.
    n_columns
        Columns of the result, where `column` is given.

    Returns
    -------
    scipy.sparse.csr_array
        `counts` itself where nothing changes.

    Raises
    ------
    OverflowError
        A sum does not fit 32 bits.
    """
    if groups is None and column is None and np.array_equal(rows, np.arange(counts.shape[0])):
        return counts  # as it is, maybe mapped
    width = int(counts.shape[1]) if n_columns is None else n_columns
    n_out = rows.size if groups is None else (int(groups[-1]) + 1 if groups.size else 0)
    lengths = np.diff(counts.indptr)[rows].astype(np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    data = allocate(int(starts[-1]), np.uint32, scratch)
    indices = allocate(int(starts[-1]), np.int32, scratch)
    one_to_one = column is not None and np.unique(column[column >= 0]).size == column.size
    filled, per_row = 0, np.zeros(n_out, np.int64)
    for start, stop in _whole_groups(starts, groups):
        block = counts[rows[start:stop]]
        if column is not None:
            block = _rename(block, column, width, one_to_one=one_to_one)
        first = start
        if groups is not None:
            first = int(groups[start])
            block = _add_up(block, groups[start:stop] - first)
        if not block.has_sorted_indices:
            # There and back is a counting sort: half the time of sorting every row by itself.
            block = block.tocsc().tocsr()
        n = int(block.nnz)
        data[filled : filled + n] = block.data
        indices[filled : filled + n] = block.indices
        per_row[first : first + block.shape[0]] = np.diff(block.indptr)
        filled += n
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_row)])
    return as_csr(data[:filled], indices[:filled], indptr, (n_out, width))


def _whole_groups(
    starts: NDArray[np.int64], groups: NDArray[np.int64] | None
) -> Iterator[tuple[int, int]]:
    """Yield bands of the taken rows that never part a group."""
    if groups is None:
        yield from bands(starts)
        return
    edges = np.flatnonzero(np.diff(groups, prepend=-1))
    whole = np.append(starts[edges], starts[-1])
    ends = np.append(edges, groups.size)
    for first, last in bands(whole):
        yield int(ends[first]), int(ends[last])


def _rename(
    block: csr_array, column: NDArray[np.int64], width: int, *, one_to_one: bool
) -> csr_array:
    target = column[block.indices]
    if one_to_one:  # nothing is left out or summed; the caller sorts
        return as_csr(block.data, target, block.indptr, (block.shape[0], width))
    kept = target >= 0
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    renamed = csr_array(
        (block.data[kept].astype(np.int64), target[kept], before[block.indptr]),
        shape=(block.shape[0], width),
    )
    renamed.sum_duplicates()
    return _narrow(renamed)


def _add_up(block: csr_array, groups: NDArray[np.int64]) -> csr_array:
    adder = csr_array(
        (np.ones(groups.size, np.int64), (groups, np.arange(groups.size))),
        shape=(int(groups[-1]) + 1, groups.size),
    )
    return _narrow(csr_array(adder @ block.astype(np.int64)))


def _narrow(block: csr_array) -> csr_array:
    if int(block.data.max(initial=0)) >= 2**32:
        msg = "a sum of counts does not fit 32 bits"
        raise OverflowError(msg)
    return block.astype(np.uint32)
