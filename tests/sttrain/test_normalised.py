"""The CPU's way and the model's give the same numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrain.model.autoencoder import normalise
from sttrain.stream.batches import PatchSource
from sttrain.stream.buffers import Buffers
from sttrain.stream.normalised import normalise_counts
from sttrain.train.statistics import as_tensors
from tests.corpora import write_corpus


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([np.uint16, np.uint32]), st.integers(0, 4))
def test_equal_to_the_model(seed, dtype, n):
    """Any integers, unobserved sites, padding with whatever stands in it."""
    rng = np.random.default_rng(seed)
    shape = (n, 6, 4, 4)
    most = rng.integers(1, [4, np.iinfo(dtype).max])[rng.integers(2)]
    counts = rng.integers(0, most, shape, endpoint=True).astype(dtype)
    totals = rng.integers(0, rng.choice([3, 10**5, 2**32 - 1]), (n, 4, 4)).astype(np.uint32)
    genes = rng.integers(-1, 9, shape[:2]).astype(np.int32)
    expected = normalise(*as_tensors(counts, genes, totals, torch.device("cpu"))).values
    found = normalise_counts(counts, genes, totals, Buffers())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(n, 6, 16), expected, rtol=2e-6, atol=2e-7)
    zero = (totals == 0)[:, None] | (genes < 0)[:, :, None, None] | (counts == 0)
    assert not found[zero].any()


@pytest.mark.parametrize("wide", [False, True])
def test_in_memory_of_the_source(tmp_path, wide):
    source = PatchSource(write_corpus(tmp_path / "c", wide=wide, genes=40), "train")
    patches = source.read(range(9))
    found = normalise_counts(*patches, source.buffers)
    assert np.array_equal(found, normalise_counts(*patches))
    assert not any(np.shares_memory(found, array) for array in patches)
