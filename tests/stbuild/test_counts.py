"""Sparse counts by bands and on disk, compared with plain SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stbuild import counts as module
from stbuild.counts import allocate, bands, column_sums, gather, row_sums


def matrix(seed, rows, cols, density=0.3):
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 1000, (rows, cols)) * (rng.random((rows, cols)) < density)
    return csr_array(dense.astype(np.uint32))


@given(st.integers(0, 40), st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_bands_cover_every_row_once_and_hold_no_more_than_allowed(seed, lengths, most):
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = list(bands(indptr, most))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in found:
        assert stop - start == 1 or indptr[stop] - indptr[start] <= most


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 12),
    cols=st.integers(1, 9),
    band=st.sampled_from([1, 7, 10**6]),
    data=st.data(),
)
def test_gather_equals_the_plain_computation(seed, rows, cols, band, data):
    counts = matrix(seed, rows, cols)
    taken = np.asarray(data.draw(st.permutations(range(rows))), np.int64)
    taken = taken[: data.draw(st.integers(0, rows))]
    column = np.asarray(data.draw(st.lists(st.integers(-1, 4), min_size=cols, max_size=cols)))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=rows, max_size=rows))
    groups = np.repeat(np.arange(rows), sizes)[: taken.size].astype(np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BAND", band)
        patch.setattr(module.bands, "__defaults__", (band,))
        plain = gather(counts, taken, None)
        summed = gather(counts, taken, None, groups=groups, column=column, n_columns=5)
    dense = counts.toarray().astype(np.int64)
    assert np.array_equal(plain.toarray(), dense[taken])
    wanted = np.zeros((int(groups[-1]) + 1 if groups.size else 0, 5), np.int64)
    for group, row in zip(groups, taken, strict=True):
        for j, target in enumerate(column):
            if target >= 0:
                wanted[group, target] += dense[row, j]
    assert np.array_equal(summed.toarray(), wanted)
    assert summed.dtype == np.uint32
    assert summed.has_sorted_indices


def test_sums_by_bands_equal_plain_sums(monkeypatch):
    counts = matrix(3, 50, 20)
    monkeypatch.setattr(module.bands, "__defaults__", (11,))
    dense = counts.toarray().astype(np.int64)
    mask = np.arange(50) % 3 == 0
    assert np.array_equal(row_sums(counts), dense.sum(axis=1))
    assert np.array_equal(column_sums(counts), dense.sum(axis=0))
    assert np.array_equal(column_sums(counts, mask), dense[mask].sum(axis=0))


def test_what_is_large_lies_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IN_MEMORY_BYTES", 100)
    array = allocate(1000, np.uint32, tmp_path)
    assert isinstance(array, np.memmap)
    assert not list(tmp_path.iterdir())
    array[:] = 7
    assert int(array.sum()) == 7000
    counts = matrix(4, 60, 20)
    mapped = gather(counts, np.arange(60)[::-1].copy(), tmp_path)
    assert np.array_equal(mapped.toarray(), counts.toarray()[::-1])
    assert not list(tmp_path.iterdir())


def test_a_sum_beyond_32_bits_is_refused():
    counts = csr_array(np.full((3, 1), 2**31 - 1, np.uint32))
    with pytest.raises(OverflowError, match="32 bits"):
        gather(counts, np.arange(3), None, groups=np.zeros(3, np.int64))


def test_rows_without_counts_have_no_sum(monkeypatch):
    monkeypatch.setattr(module, "BAND", 3)
    dense = np.array([[0, 0], [2**32 - 1, 2**32 - 1], [0, 0], [1, 0], [0, 0]], np.uint64)
    found = csr_array(dense.astype(np.uint32))
    assert row_sums(found).tolist() == [0, 2 * (2**32 - 1), 0, 1, 0]


def test_gathering_every_row_in_order_copies_nothing():
    found = matrix(1, 6, 4)
    assert gather(found, np.arange(6), None) is found
    assert gather(found, np.arange(5), None) is not found
