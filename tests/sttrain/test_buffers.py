"""Memory is used again when nobody looks at it, and never before."""

import numpy as np
import pytest
import torch

from stbuild.corpus.samples import decode_counts
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from sttrain.stream.buffers import Buffers
from sttrain.stream.order import Order
from tests.corpora import write_corpus


def address(array) -> int:
    return int(array.__array_interface__["data"][0])


def test_unused_memory_is_used_again():
    buffers = Buffers()
    first = buffers.take((4, 8), np.uint16)
    place = address(first)
    del first
    assert address(buffers.take((4, 8), np.uint16)) == place
    assert address(buffers.take((2, 8), np.float32)) == place, "of another type, too"


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(lambda a: a, id="the_array"),
        pytest.param(lambda a: a[1:2, 3], id="a_part"),
        pytest.param(lambda a: a.view(np.int16).reshape(-1), id="a_view_of_a_view"),
        pytest.param(lambda a: torch.from_numpy(a.view(np.int16)), id="a_tensor"),
        pytest.param(lambda a: torch.from_numpy(a.view(np.int16))[0], id="a_part_of_a_tensor"),
        pytest.param(memoryview, id="a_memoryview"),
    ],
)
def test_memory_that_somebody_sees_is_left_alone(hold):
    buffers = Buffers()
    array = buffers.take((4, 8), np.uint16)
    place, held = address(array), hold(array)
    del array
    other = buffers.take((4, 8), np.uint16)
    assert address(other) != place
    del held, other
    assert address(buffers.take((4, 8), np.uint16)) == place


def test_a_large_buffer_is_not_wasted_on_a_small_array():
    buffers = Buffers()
    place = address(buffers.take((1000,), np.uint8))
    assert address(buffers.take((10,), np.uint8)) != place


def test_few_are_kept():
    buffers = Buffers(most=3)
    arrays = [buffers.take((10 + i,), np.uint8) for i in range(9)]
    assert len(buffers._held) == 3
    assert len({address(a) for a in arrays}) == 9
    del arrays
    for i in range(9):
        buffers.take((1000 * 2**i,), np.uint8)
    assert len(buffers._held) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_what_they_are(tmp_path, workers):
    """A reader that hoards batches sees the same as one that copies each at once."""
    source = PatchSource(write_corpus(tmp_path / "c", n_patches=30), "train")
    stream = PatchStream(source, Order(n_samples=len(source), batch=4), workers=workers)
    copied = [b.counts.copy() for b in stream.batches(StreamState(), 2)]
    kept = [b.counts for b in stream.batches(StreamState(), 2)]
    assert all(np.array_equal(a, b) for a, b in zip(copied, kept, strict=True))
    assert len({address(a) for a in kept}) == len(kept)
    del kept
    places = {address(b.counts) for b in stream.batches(StreamState(), 2)}
    assert len(places) <= 2 * (workers + 2) + 1, "memory does not grow with the epoch"


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_no_copy_a_sample(tmp_path, monkeypatch, codec):
    """Each patch is decompressed where it stays, in the one piece of memory of its batch."""
    written = []

    def decode(suffix, raw, shape, where, out=None):
        written.append(out)
        return decode_counts(suffix, raw, shape, where, out)

    source = PatchSource(write_corpus(tmp_path / "c", codec=codec), "train")
    monkeypatch.setattr("sttrain.stream.source.decode_counts", decode)
    counts, _, _ = source.read([3, 1, 2])
    assert [address(out) for out in written] == [address(row) for row in counts]
