"""Totals among the genes of a table: what equals the sum of all others in every spot is no gene."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.counts import column_sums

_FEW: Final = 16
"""In fewer spots with molecules a gene may equal the sum of the others by chance."""


def find_totals(counts: csr_array, others: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which columns are totals, whatever their names; a table may have one several times.

    Parameters
    ----------
    counts
        (N, K) counts of spots.
    others
        (K,) columns that are no genes, such as controls: a total may leave them out.
    """
    totals = np.zeros(counts.shape[1], bool)
    sums = column_sums(counts)
    for kept in (np.ones_like(others), ~others):
        columns = np.flatnonzero(kept)
        most = int(sums[columns].max(initial=0))
        found = columns[sums[columns] == most]
        if most == 0 or int(sums[columns].sum()) != (found.size + 1) * most:
            continue
        if _equal_the_rest(counts, columns, found):
            totals[found] = True
            break
    return totals


def _equal_the_rest(
    counts: csr_array, columns: NDArray[np.int64], found: NDArray[np.int64]
) -> bool:
    """Tell whether every one of some columns is the sum of those that are none of them."""
    values = csr_array(counts[:, found]).toarray().astype(np.int64)
    if np.count_nonzero(values[:, 0]) < _FEW:
        return False
    part = counts if columns.size == counts.shape[1] else csr_array(counts[:, columns])
    rows = np.asarray(part.sum(axis=1, dtype=np.int64)).ravel()
    return bool((values * (found.size + 1) == rows[:, None]).all())
