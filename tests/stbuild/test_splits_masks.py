"""Blocks of one slice: no window of one split comes near a window of another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from stbuild.corpus.errors import BadInputError
from stbuild.splits import block_split, window_origins
from stbuild.windows import window_fill

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def tissue(shape, seed, fill):
    return np.random.default_rng(seed).random(shape) < fill


@given(
    st.integers(20, 60), st.integers(20, 60), st.integers(1, 6), st.integers(0, 3),
    st.sampled_from([{"train": 0.8, "test": 0.2}, SHARES]), st.sampled_from([0.3, 0.9, 1.0]),
)  # fmt: skip
def test_windows_of_two_splits_are_a_window_apart(height, width, window, seed, shares, fill):
    occupied = tissue((height, width), seed, fill)
    try:
        found = block_split(occupied, window, shares, seed, "a" * 64)
    except BadInputError:
        assert min(height, width) < 10 * window
        return
    cells = {name: np.argwhere(mask) for name, mask in found.masks.items()}
    for one in shares:
        for two in shares:
            if one < two:
                gap = cdist(cells[one], cells[two], "chebyshev").min() - 1
                assert gap >= window
    assert sum(found.observed.values()) + found.dropped == int(occupied.sum())
    for name, mask in found.masks.items():
        assert found.observed[name] == int((mask & occupied).sum())
        origins = np.argwhere(window_origins(mask, occupied, window))
        assert origins.size
        for row, col in origins[:: max(1, len(origins) // 7)]:
            assert mask[row : row + window, col : col + window].all()
            assert occupied[row : row + window, col : col + window].any()


def test_most_of_the_cells_go_to_train_and_the_deal_repeats():
    occupied = tissue((76, 64), 0, 0.95)
    one = block_split(occupied, 8, SHARES, 0, "a" * 64)
    again = block_split(occupied, 8, dict(reversed(SHARES.items())), 0, "a" * 64)
    assert all((one.masks[name] == again.masks[name]).all() for name in SHARES)
    assert one.observed["train"] > one.observed["test"] > 0
    other = block_split(occupied, 8, SHARES, 0, "b" * 64)
    assert any((one.masks[name] != other.masks[name]).any() for name in SHARES)


def test_a_grid_without_room_is_refused():
    with pytest.raises(
        BadInputError, match=r"each of 3 splits a window of 16 on a grid of 30 x 30"
    ):
        block_split(np.ones((30, 30), bool), 16, SHARES, 0, "a" * 64)


def test_windows_past_a_small_grid_count_the_cells_that_exist():
    occupied = np.ones((5, 40), bool)
    mask = np.zeros_like(occupied)
    mask[:, :20] = True
    origins = window_origins(mask, occupied, 8)
    assert origins.shape == window_fill(occupied, 8).shape == (1, 33)
    assert origins[0].tolist() == [True] * 13 + [False] * 20
