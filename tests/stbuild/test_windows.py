"""Windows: fill against brute force, the fill rule, and full cover."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.documents import ShardConfig
from stbuild.windows import plan_cover, plan_training, window_fill

masks = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1)).map(
    lambda t: np.random.default_rng(t[2]).random((t[0], t[1])) < 0.6
)


def padded(mask, P):
    full = np.zeros((max(mask.shape[0], P), max(mask.shape[1], P)), bool)
    full[: mask.shape[0], : mask.shape[1]] = mask
    return full


@given(masks, st.integers(1, 9))
def test_fill_equals_brute_force(mask, P):
    full = padded(mask, P)
    fill = window_fill(mask, P)
    expected = [
        [full[r : r + P, c : c + P].sum() for c in range(full.shape[1] - P + 1)]
        for r in range(full.shape[0] - P + 1)
    ]
    assert fill.tolist() == expected


@given(masks, st.integers(1, 9), st.data())
def test_cover_holds_every_observed_cell(mask, P, data):
    stride = data.draw(st.integers(1, P))
    config = ShardConfig(window=P, genes=4, n_per_slice=None, cover=stride)
    seen = np.zeros_like(padded(mask, P))
    for window in plan_cover(mask, config):
        box = np.s_[window.row : window.row + P, window.col : window.col + P]
        assert padded(mask, P)[box].sum() == window.observed > 0
        seen[box] = True
    assert seen[: mask.shape[0], : mask.shape[1]][mask].all()


def test_windows_keep_the_fill_rule_and_say_how_often_they_tried():
    mask = np.zeros((40, 40), bool)
    mask[:12, :12] = True
    config = ShardConfig(window=8, genes=4, n_per_slice=50, min_fill=0.5, tries=2000)
    windows = plan_training(mask, "digest", config)
    assert [window.number for window in windows] == list(range(50))
    assert all(window.observed >= 32 for window in windows)
    assert sum(window.tries for window in windows) > 50


def test_a_window_is_independent_of_how_many_are_asked_for():
    mask = np.ones((20, 20), bool)
    few = plan_training(mask, "d", ShardConfig(window=4, genes=4, n_per_slice=3))
    many = plan_training(mask, "d", ShardConfig(window=4, genes=4, n_per_slice=9))
    assert many[:3] == few


def test_the_best_filled_origin_is_taken_where_none_is_good_enough():
    mask = np.zeros((30, 30), bool)
    mask[0, 0] = mask[29, 29] = True
    config = ShardConfig(window=4, genes=4, n_per_slice=5, min_fill=1.0, tries=2)
    windows = plan_training(mask, "d", config)
    assert {window.tries for window in windows} <= {1, 2}
    assert all(window.observed in (0, 1) for window in windows)


def test_origins_are_uniform_without_a_fill_rule():
    config = ShardConfig(window=4, genes=4, n_per_slice=4000, min_fill=0.0)
    windows = plan_training(np.ones((7, 4), bool), "d", config)
    times = np.bincount([window.row for window in windows], minlength=4)
    assert np.abs(times - 1000).max() < 130
