"""Packed and coded columns are sequences of str like any other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.texts import CodedTexts, PackedTexts

texts = st.lists(st.text(max_size=6), max_size=12)


@pytest.mark.parametrize("kind", [PackedTexts, CodedTexts])
@given(texts, st.slices(12))
def test_equal_to_a_list(kind, plain, part):
    column = kind.of(plain)
    assert list(column) == plain
    assert list(column[part]) == plain[part]
    assert [column[i] for i in range(-len(plain), len(plain))] == 2 * plain
    assert all((text in column) and column.index(text) == plain.index(text) for text in plain)


@pytest.mark.parametrize("kind", [PackedTexts, CodedTexts])
@pytest.mark.parametrize("index", [3, -4])
def test_no_such_text(kind, index):
    with pytest.raises(IndexError):
        kind.of(["a", "b", "c"])[index]


def test_keys_are_no_objects():
    column = PackedTexts.of(f"slice_w{i:06d}" for i in range(100_000))
    assert column.data.nbytes + column.starts.nbytes < 25 * len(column)
    assert column.raw(99_999) == b"slice_w099999"
    assert column.starts.dtype == np.int64
