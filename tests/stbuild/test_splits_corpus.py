"""Corpus splits: groups are never parted, every split gets one, order leaves no trace."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import BadInputError, BadUsageError
from stbuild.splits import assign_splits

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Member:
    slug: str
    donor: str | None = None
    section: str | None = None
    pair: str | None = None
    n_spots: int = 100


def donors(sizes):
    """Three sections per donor."""
    return [
        Member(f"{donor}{i}".lower(), donor=donor, section=str(i), pair=str(i // 2), n_spots=n)
        for donor, n in sizes.items()
        for i in range(3)
    ]


members = st.lists(
    st.builds(
        Member,
        slug=st.integers(0, 99).map(lambda i: f"s{i}"),
        donor=st.sampled_from("ABCDEFGH"),
        section=st.none() | st.sampled_from("123"),
        pair=st.none() | st.sampled_from("xy"),
        n_spots=st.integers(1, 5000),
    ),
    min_size=3,
    max_size=30,
    unique_by=lambda m: m.slug,
)


def key(member, rule):
    if rule == "donor":
        return member.donor
    if rule == "pair" and member.pair is not None:
        return member.donor, "pair", member.pair
    return (member.donor, member.section) if member.section else member.slug


@given(members, st.sampled_from(["donor", "section", "pair"]), st.integers(0, 5), st.randoms())
def test_groups_stay_whole_and_order_leaves_no_trace(metas, rule, seed, shuffler):
    if len({key(m, rule) for m in metas}) < 3:
        with pytest.raises(BadInputError, match="groups by"):
            assign_splits(metas, rule, seed, SHARES)
        return
    found = assign_splits(metas, rule, seed, SHARES)
    assert list(found) == sorted(m.slug for m in metas)
    assert set(found.values()) == set(SHARES)
    sides: dict[object, set[str]] = {}
    for member in metas:
        sides.setdefault(key(member, rule), set()).add(found[member.slug])
    assert all(len(side) == 1 for side in sides.values())
    shuffled = list(metas)
    shuffler.shuffle(shuffled)
    assert assign_splits(shuffled, rule, seed, dict(reversed(SHARES.items()))) == found


@given(members, st.integers(0, 3))
def test_an_extension_never_moves_a_slice(metas, seed):
    if len({m.donor for m in metas}) < 3:
        return
    before = assign_splits(metas, "donor", seed, SHARES)
    more = [*metas, *donors({"Y": 900, "Z": 40}), replace(metas[0], slug="added")]
    after = assign_splits(more, "donor", seed, SHARES, fixed=before)
    assert after.items() >= before.items()
    assert after["added"] == before[metas[0].slug]


def test_spots_come_near_the_fractions():
    metas = donors(dict.fromkeys("ABCDEFGHIJ", 1000))
    found = assign_splits(metas, "donor", 0, SHARES)
    assert sorted(found.values()).count("train") == 24
    assert sorted(found.values()).count("val") == sorted(found.values()).count("test") == 3
    seeds = {tuple(assign_splits(metas, "donor", seed, SHARES).values()) for seed in range(5)}
    assert len(seeds) == 5


def test_a_giant_donor_trains():
    metas = donors({"A": 50, "B": 60, "C": 5000, "D": 70})
    for seed in range(8):
        assert assign_splits(metas, "donor", seed, SHARES)["c0"] == "train"


def test_sections_of_two_donors_are_two_whatever_their_ids():
    metas = donors({"A": 10, "B": 10})
    seen = {
        tuple(sorted(assign_splits(metas, "section", seed, SHARES).values())) for seed in range(3)
    }
    assert all(set(splits) == set(SHARES) for splits in seen)


def test_unknown_donors_are_refused_with_their_number():
    metas = [*donors({"A": 10, "B": 10}), Member("lost"), Member("gone")]
    with pytest.raises(BadInputError, match=r"2 of 8 slices have no donor, the first is 'gone'"):
        assign_splits(metas, "donor", 0, SHARES)
    assert set(assign_splits(metas, "section", 0, SHARES).values()) == set(SHARES)


@pytest.mark.parametrize(
    "fractions",
    [
        {"train": 0.5},
        {"train": 1.2, "val": -0.2},
        {"train": float("nan"), "val": 0.5},
        {},
        {"train": 0.5, "no good": 0.5},
        {"train": float("inf")},
    ],
    ids=["not_one", "negative", "nan", "none", "name", "infinite"],
)
def test_bad_fractions_are_a_usage_error(fractions):
    with pytest.raises(BadUsageError, match="together 1"):
        assign_splits(donors({"A": 10, "B": 10}), "donor", 0, fractions)


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        ({"a0": "train", "a1": "test"}, "already in test and train"),
        ({"a0": "holdout"}, "'holdout', which has no fraction"),
    ],
    ids=["parted", "unknown_split"],
)
def test_a_fixed_group_that_is_parted_is_refused(fixed, said):
    with pytest.raises(BadInputError, match=said):
        assign_splits(donors({"A": 10, "B": 10, "C": 10}), "donor", 0, SHARES, fixed=fixed)
