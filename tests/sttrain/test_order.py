"""The order of samples: golden vectors, and what holds for all sizes, seeds and worlds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrain.stream.order import BlockOrder, Order, World, permute, round_keys


def block_order(shards, *, batch=4, seed=0, group=2) -> BlockOrder:
    return BlockOrder(
        n_samples=sum(shards), batch=batch, seed=seed, shards=tuple(shards), group=group
    )


batches, seeds = st.integers(1, 40), st.integers(0, 2**63 - 1)
blocks = st.builds(
    block_order,
    st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any),
    batch=batches,
    seed=seeds,
    group=st.integers(1, 12),
)
"""Fewer shards than a group holds, one shard, empty ones, prime numbers of everything."""
orders = st.builds(Order, n_samples=st.integers(1, 300), batch=batches, seed=seeds) | blocks


@pytest.mark.parametrize(
    ("n", "seed", "epoch", "places", "expected"),
    [
        pytest.param(
            12, 7, 3, range(12), [2, 11, 6, 8, 7, 9, 3, 4, 0, 10, 5, 1], id="a_whole_small_epoch"
        ),
        pytest.param(
            10**6, 0, 0, range(6), [843261, 703073, 776545, 694335, 290499, 22775], id="a_million"
        ),
        pytest.param(
            10**12 + 7, 5, 2, [0, 10**12], [27460709614, 926584341121], id="beyond_32_bits"
        ),
        pytest.param(1, 9, 9, [0], [0], id="one_sample"),
    ],
)
def test_golden_vectors(n, seed, epoch, places, expected):
    """A corpus trained on last year comes in the same order today."""
    assert permute(np.array(places), n, seed, epoch).tolist() == expected


def test_keys_are_golden():
    assert [int(key) for key in round_keys(0, 0)[:2]] == [16599551438779234636, 4724417997508099493]


@given(orders, st.integers(0, 2**40))
def test_every_sample_exactly_once_an_epoch(order, epoch):
    steps = [order.global_batch(epoch, step) for step in range(order.steps)]
    assert sorted(np.concatenate(steps).tolist()) == list(range(order.n_samples))
    assert [len(step) for step in steps[:-1]] == [order.batch] * (order.steps - 1)
    assert 1 <= len(steps[-1]) <= order.batch


@given(orders, st.integers(0, 5), st.integers(1, 9))
def test_ranks_share_each_global_batch(order, epoch, n_ranks):
    """The same global batches for any number of ranks, each row on one rank."""
    for step in range(order.steps):
        whole = order.global_batch(epoch, step)
        rebuilt = np.full_like(whole, -1)
        sizes = []
        for rank in range(n_ranks):
            world = World(rank=rank, n_ranks=n_ranks)
            part, rows = order.rank_batch(epoch, step, world), order.rank_rows(epoch, step, world)
            assert (rebuilt[rows] == -1).all()
            rebuilt[rows] = part
            sizes.append(len(part))
        assert rebuilt.tolist() == whole.tolist()
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=30)
@given(st.integers(0, 2**62), st.integers(0, 1000))
def test_epochs_and_seeds_differ(seed, epoch):
    places = np.arange(64)
    here = permute(places, 64, seed, epoch).tolist()
    assert here != permute(places, 64, seed, epoch + 1).tolist()
    assert here != permute(places, 64, seed + 1, epoch).tolist()
    assert here != permute(places, 64, seed + 1, epoch - 1).tolist(), "seed + epoch is no key"


def test_places_are_spread_evenly():
    """Chi-square over 4,096 seeds: any sample stands at the first place about equally often."""
    n = 16
    first = [int(permute(np.array([0]), n, seed, 0)[0]) for seed in range(4096)]
    expected = len(first) / n
    chi = float((np.square(np.bincount(first, minlength=n) - expected) / expected).sum())
    assert chi < 37.7, "beyond the 99.9 % point of 15 degrees of freedom"


def test_neighbours_are_parted():
    """Samples that are stored together do not come together."""
    found = permute(np.arange(5000), 5000, 1, 1)
    assert np.corrcoef(np.arange(5000), found)[0, 1] == pytest.approx(0, abs=0.05)
    assert np.mean(np.abs(np.diff(found)) < 10) < 0.02


def test_blocks_are_golden():
    order = block_order([5, 3, 7, 2], seed=7, batch=17)
    assert order.global_batch(3, 0).tolist() == [
        16,
        2,
        0,
        15,
        1,
        3,
        4,
        7,
        11,
        12,
        8,
        14,
        6,
        13,
        5,
        9,
        10,
    ]


@given(blocks, st.integers(0, 2**40))
def test_a_group_of_shards_at_a_time(order, epoch):
    """Each shard is read in one go: those of a group, all of them, before those of the next."""
    numbers = np.concatenate([order.global_batch(epoch, step) for step in range(order.steps)])
    shard_of = np.repeat(np.arange(len(order.shards)), order.shards)[numbers]
    first = {shard: at for at, shard in reversed(list(enumerate(shard_of.tolist())))}
    last = {shard: at for at, shard in enumerate(shard_of.tolist())}
    for place in range(order.n_samples):
        assert sum(first[shard] <= place <= last[shard] for shard in first) <= order.group


@given(blocks, st.integers(0, 5), st.integers(0, 4))
def test_a_place_does_not_depend_on_what_is_asked_with_it(order, epoch, skipped):
    """Any places, in any company, out of any epoch before: a function of the place alone."""
    places = np.arange(order.n_samples)
    whole = order.sample_at(epoch, places)
    order.sample_at(epoch + 1, places[:1])
    some = places[:: skipped + 1]
    assert order.sample_at(epoch, some[::-1]).tolist() == whole[some[::-1]].tolist()


@settings(max_examples=30)
@given(st.integers(0, 2**62), st.integers(0, 1000))
def test_blocks_of_epochs_and_seeds_differ(seed, epoch):
    def order_of(seed, epoch):
        return block_order([16] * 8, seed=seed, batch=128).global_batch(epoch, 0).tolist()

    here = order_of(seed, epoch)
    assert here != order_of(seed, epoch + 1)
    assert here != order_of(seed + 1, epoch)
    assert here != order_of(seed + 1, epoch - 1 if epoch else 5)


def test_shards_and_samples_are_both_permuted_evenly():
    """Chi-square over 1,024 epochs: any sample of any shard comes first about equally often."""
    order = block_order([4] * 6, batch=1, seed=1)
    first = [int(order.sample_at(epoch, np.zeros(1, np.int64))[0]) for epoch in range(1024)]
    expected = len(first) / order.n_samples
    counts = np.bincount(first, minlength=order.n_samples)
    assert float((np.square(counts - expected) / expected).sum()) < 49.7, "99.9 %, 23 degrees"


def test_a_corpus_of_many_shards_is_ordered_in_little_time():
    """Ten million samples: what is computed grows with a batch and with the shards alone."""
    order = block_order([1024] * 9766, batch=64, group=8, seed=2)
    numbers = np.concatenate([order.global_batch(0, step) for step in range(130)])
    assert np.unique(numbers).size == 130 * 64
    assert np.unique(numbers // 1024).size == 16, "two groups of eight shards"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Order(n_samples=0, batch=1), id="no_samples"),
        pytest.param(lambda: Order(n_samples=1, batch=0), id="no_batch"),
        pytest.param(lambda: block_order([]), id="no_shards"),
        pytest.param(lambda: block_order([3, -1]), id="less_than_no_samples"),
        pytest.param(lambda: block_order([3], group=0), id="groups_of_none"),
        pytest.param(
            lambda: BlockOrder(n_samples=4, batch=1, shards=(3,), group=1), id="other_shards"
        ),
        pytest.param(lambda: World(rank=2, n_ranks=2), id="rank_outside"),
        pytest.param(lambda: Order(n_samples=5, batch=5).global_batch(0, 1), id="step_outside"),
        pytest.param(lambda: Order(n_samples=5, batch=5).global_batch(-1, 0), id="epoch_outside"),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError, match=r"\d"):
        make()
