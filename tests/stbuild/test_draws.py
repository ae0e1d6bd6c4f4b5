"""Keyed randomness: golden vectors, order-freedom, and the law of weighted sampling."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stbuild.draws import (
    draw_index,
    draw_uniforms,
    hashed_order,
    keyed_stream,
    smallest_keys,
)

GOLDEN_WORDS = [16890520776568479755, 5862098042764376972, 17034429297026078203]
GOLDEN_ORDER = [1, 2, 3, 0]


def test_golden_vectors():
    stream = keyed_stream("window", 0, "ab", 7)
    words = [int(word) for word in stream.random_raw(3)]
    assert words == GOLDEN_WORDS
    assert hashed_order("shard", 0, ["a", "b", "c", "d"]) == GOLDEN_ORDER


def test_streams_of_other_purpose_seed_content_or_number_differ():
    base = keyed_stream("window", 0, "ab", 7).random_raw()
    others = [
        keyed_stream("genes", 0, "ab", 7),
        keyed_stream("window", 1, "ab", 7),
        keyed_stream("window", 0, "ac", 7),
        keyed_stream("window", 0, "ab", 8),
    ]
    assert base not in {stream.random_raw() for stream in others}


def test_uniforms_lie_strictly_inside_the_unit_interval():
    values = draw_uniforms(keyed_stream("genes", 3, "x", 0), 20_000)
    assert values.min() > 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01


def test_index_covers_its_range_evenly():
    stream = keyed_stream("window", 5, "x", 0)
    times = np.bincount([draw_index(stream, 7) for _ in range(7000)], minlength=7)
    assert times.size == 7
    assert np.abs(times - 1000).max() < 150


@given(st.lists(st.text("abc", min_size=1, max_size=4), unique=True, min_size=1), st.randoms())
def test_hashed_order_ignores_the_order_of_its_input(ids, shuffler):
    shuffled = ids.copy()
    shuffler.shuffle(shuffled)
    first = [ids[i] for i in hashed_order("p", 1, ids)]
    assert first == [shuffled[i] for i in hashed_order("p", 1, shuffled)]
    assert sorted(first) == sorted(ids)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=300), st.integers(0, 310))
def test_smallest_keys_equal_a_stable_sort_in_fixed_point(keys, m):
    array = np.asarray(keys)
    fixed = array.view(np.int64) >> 20
    expected = np.sort(np.argsort(fixed, kind="stable")[:m])
    assert smallest_keys(array, m).tolist() == expected.tolist()


def test_exponential_keys_draw_like_sequential_weighted_sampling():
    # The first of m is drawn with probability proportional to its weight: with m = 1 the shares
    # must be those of the weights.
    weights = np.asarray([1.0, 2.0, 4.0, 8.0])
    times = np.zeros(4)
    for number in range(6000):
        uniforms = draw_uniforms(keyed_stream("genes", 0, "law", number), 4)
        times[smallest_keys(-np.log(uniforms) / weights, 1)[0]] += 1
    assert np.abs(times / 6000 - weights / 15).max() < 0.02
