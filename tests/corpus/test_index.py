import io
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.index import read_genes, read_index, write_genes, write_index
from stbuild.corpus.parquet import column_of, lists_of, numbers_of, texts_of

REFUSED = r"error\[L16\] table \(index\.parquet\): .* fix: "


def saved(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.fixture(scope="module")
def index(make_index, make_eval_patch):
    return make_index([b"x" * 512] * 3, [make_eval_patch(seed=i, window=i) for i in range(3)])


@pytest.fixture(scope="module")
def table(index) -> pa.Table:
    return pq.read_table(io.BytesIO(write_index(index)))


def test_round_trip(index):
    found = read_index(write_index(index), "x")
    assert len(found) == 3
    for field in fields(index):
        expected = getattr(index, field.name)
        np.testing.assert_array_equal(getattr(found, field.name), expected)
        if isinstance(expected, np.ndarray):
            assert getattr(found, field.name).dtype == expected.dtype


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 2**31 - 1))
def test_round_trip_of_large_numbers(index, offset, row):
    n = len(index)
    changed = replace(index, offset=np.full(n, offset), row=np.full(n, row, np.int32))
    found = read_index(write_index(changed), "x")
    assert found.offset.tolist() == [offset] * n
    assert found.row.tolist() == [row] * n


def test_same_index_same_bytes(index):
    assert write_index(index) == write_index(replace(index, keys=list(index.keys)))


def test_other_columns_are_passed_over(table):
    more = table.append_column("later", pa.array([1.5] * 3))
    assert len(read_index(saved(more), "x")) == 3


@pytest.mark.parametrize("name", ["key", "shard", "sha256", "donor"])
def test_a_missing_column_is_named(table, name):
    with pytest.raises(IntegrityError, match=f"columns missing: {name}"):
        read_index(saved(table.drop_columns([name])), "index.parquet")


COLUMNS = {
    "null_key": ("key", pa.array(["a", None, "c"])),
    "null_number": ("row", pa.array([0, None, 1], pa.int32())),
    "negative_offset": ("offset", pa.array([0, -512, 0], pa.int64())),
    "shard_that_would_wrap_to_0": ("shard", pa.array([0, 2**32, 0], pa.int64())),
    "numbers_as_text": ("size", pa.array(["1", "2", "3"])),
    "numbers_as_floats": ("size", pa.array([1.0, 2.0, 3.0])),
    "short_digest": ("sha256", pa.array([b"a" * 31] * 3)),
    "digests_of_unequal_length": ("content", pa.array([b"a" * 31, b"a" * 33, b"a" * 32])),
    "keys_as_numbers": ("key", pa.array([1, 2, 3])),
    "lists": ("row", pa.array([[1], [2], [3]])),
}


@pytest.mark.parametrize(("name", "column"), COLUMNS.values(), ids=COLUMNS.keys())
def test_hostile_columns_are_refused(table, name, column):
    changed = table.set_column(table.column_names.index(name), name, column)
    with pytest.raises(IntegrityError, match=REFUSED):
        read_index(saved(changed), "index.parquet")


@pytest.mark.parametrize("raw", [b"", b"PAR1", b"PAR1" + b"\0" * 40 + b"PAR1", b"{}"], ids=range(4))
def test_what_is_not_parquet_is_refused(raw):
    with pytest.raises(IntegrityError, match=REFUSED):
        read_index(raw, "index.parquet")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_damaged_parquet_gives_an_error_or_a_whole_index(index, position, change):
    raw = bytearray(write_index(index))
    raw[position % len(raw)] ^= change
    try:
        found = read_index(bytes(raw), "x")
    except IntegrityError:
        return
    assert len(found.sha256) == len(found.offset) == len(found.keys)


def test_genes_round_trip():
    assert read_genes(write_genes(["a", "b"], [1, 2]), "x") == ["a", "b"]


def test_a_gene_stands_once():
    with pytest.raises(IntegrityError, match="not unique"):
        read_genes(write_genes(["a", "a"], [1, 1]), "x")


@pytest.mark.parametrize("values", [["a", "", "é"], ["a", None], [None], []])
def test_columns_of_text_are_those_of_pyarrow(values):
    assert texts_of(values).equals(pa.array(values, pa.string()))


@pytest.mark.parametrize("values", [[1, -2, 2**40], [1, None, 3, *range(20)], []])
def test_columns_of_numbers_are_those_of_pyarrow(values):
    assert numbers_of(values).equals(pa.array(values, pa.int64()))


def test_columns_of_arrays_are_those_of_pyarrow():
    panels = [np.arange(3, dtype=np.int32), np.zeros(0, np.int32), np.arange(2, dtype=np.int32)]
    assert lists_of(panels).equals(pa.array(panels, pa.list_(pa.int32())))
    digests = np.arange(64, dtype=np.uint8).reshape(2, 32)
    assert column_of(digests).equals(pa.array([row.tobytes() for row in digests], pa.binary(32)))
    assert column_of(digests[:0]).equals(pa.array([], pa.binary(32)))
