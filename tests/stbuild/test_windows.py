"""Windows: fill against brute force, the fill rule, and full cover."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.documents import ShardConfig
from stbuild.windows import Origins, draw_window, plan_cover, plan_training, window_fill

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


islands = st.builds(
    lambda sizes, gap, at: (sizes, gap, at),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=3),
    st.integers(50, 900),
    st.booleans(),
)


@given(islands, st.integers(1, 9), st.sampled_from([0.0, 0.25, 0.6, 1.0]), st.integers(1, 4))
def test_every_window_holds_enough_however_far_apart_the_islands(found, P, min_fill, tries):
    (sizes, gap, turned), left = found, 0
    mask = np.zeros((10, len(sizes) * (gap + 9)), bool)
    for height, width in sizes:
        mask[:height, left : left + width] = True
        left += gap + width
    mask = mask.T if turned else mask
    config = ShardConfig(window=P, genes=4, n_per_slice=20, min_fill=min_fill, tries=tries)
    fill = window_fill(mask, P)
    least = max(1, np.ceil(min_fill * fill.max()))
    windows = plan_training(mask, "d", config)
    assert all(w.observed == fill[w.row, w.col] >= least for w in windows)
    assert all(1 <= w.tries <= tries + 1 for w in windows)
    parted = [
        draw_window(Origins(fill, min_fill), "d", config, number, split="train")
        for number in range(5)
    ]
    assert all(w.observed == fill[w.row, w.col] >= least for w in parted)


def test_windows_that_used_their_tries_up_are_uniform_over_the_origins_that_hold_enough():
    mask = np.zeros((4, 2000), bool)
    mask[:, 3:7] = mask[:, 1990:1994] = True
    config = ShardConfig(window=4, genes=4, n_per_slice=3000, min_fill=0.5, tries=1)
    windows = plan_training(mask, "d", config)
    drawn = [window for window in windows if window.tries == 2]
    cols, times = np.unique([window.col for window in drawn], return_counts=True)
    assert cols.tolist() == [1, 2, 3, 4, 5, 1988, 1989, 1990, 1991, 1992]
    assert len(drawn) > 2900
    assert np.abs(times - len(drawn) / 10).max() < 80


def test_a_window_that_found_its_origin_within_the_tries_stays_where_it_was():
    mask = np.zeros((30, 30), bool)
    mask[:9, :9] = True
    many = ShardConfig(window=4, genes=4, n_per_slice=200, min_fill=0.5, tries=500)
    few = many.model_copy(update={"tries": 5})
    pairs = zip(plan_training(mask, "d", many), plan_training(mask, "d", few), strict=True)
    assert {a == b for a, b in pairs if a.tries <= 5} == {True}


def test_origins_are_uniform_without_a_fill_rule():
    config = ShardConfig(window=4, genes=4, n_per_slice=4000, min_fill=0.0)
    windows = plan_training(np.ones((7, 4), bool), "d", config)
    times = np.bincount([window.row for window in windows], minlength=4)
    assert np.abs(times - 1000).max() < 130
