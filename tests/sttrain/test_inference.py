from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from sttrain.bench.inference import (
    EXACT,
    bootstrap_interval,
    compare,
    holm,
    rank_methods,
    sign_flip,
)


def units(values):
    return {f"u{i}": float(v) for i, v in enumerate(values)}


def of_scipy(differences):
    """The p value of scipy, which goes through all changes of sign too."""
    pair = np.stack([differences, -differences])
    return permutation_test(
        pair, lambda a, b: float(np.mean(a) - np.mean(b)), permutation_type="samples",
        n_resamples=2**differences.size,
    ).pvalue  # fmt: skip


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_test_of_signs_is_exact(n):
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    means = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=n)]
    slow = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert sign_flip(differences) == pytest.approx(slow)
    assert sign_flip(differences) == pytest.approx(of_scipy(differences))


def test_many_units_are_drawn_and_agree_with_the_exact_test():
    differences = np.random.default_rng(0).normal(0.4, 1, EXACT + 1)
    assert sign_flip(differences) == pytest.approx(of_scipy(differences), abs=0.02)
    assert sign_flip(differences) == sign_flip(differences)


def test_comparisons_are_paired_on_the_units_that_both_have():
    found = compare(units([1, 2, 3, 9]), units([0, 1, 2]))
    assert found is not None
    assert (found.mean, found.n_units) == (1.0, 3)
    assert (found.low, found.high) == (None, None)
    assert found.p == 0.25
    assert compare({"a": 1.0}, {"b": 1.0}) is None
    alone = compare({"a": 1.0}, {"a": 0.5})
    assert alone is not None
    assert (alone.mean, alone.low, alone.p) == (0.5, None, None)


@pytest.mark.parametrize("n_units", [2, 3, 5, 6, 8])
def test_an_interval_is_given_only_where_it_can_be_one(n_units):
    """That of few units is their range, which misses the mean with a probability of 2 / 2^U."""
    rng = np.random.default_rng(n_units)
    found = compare(units(rng.normal(0, 1, n_units)), units(np.zeros(n_units)))
    assert found is not None
    assert (found.low is None) == (found.high is None) == (2 / 2**n_units > 0.05)
    assert found.p is not None


def test_holm_is_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]


def simulate(n_methods, n_units, effects, rng):
    """Scores of methods on units that all share the difficulty of a unit."""
    difficulty = rng.normal(0, 1, n_units)
    return {
        f"m{i}": units(difficulty + effects[i] + rng.normal(0, 0.3, n_units))
        for i in range(n_methods)
    }


@pytest.mark.parametrize("n_units", [6, 9])
def test_under_the_null_false_wins_stay_below_the_nominal_rate(n_units):
    """Three methods that are the same: any rank above a tie is a false win."""
    rng = np.random.default_rng(n_units)
    n, level = 600, 0.2
    wins = sum(
        any(rank.first > 1 for rank in rank_methods(simulate(3, n_units, [0, 0, 0], rng),
                                                    level=level).values())
        for _ in range(n)
    )  # fmt: skip
    assert wins / n <= level + 2.6 * np.sqrt(level * (1 - level) / n)
    assert wins > 0, "a procedure that never says anything is no procedure"


def test_without_correction_false_wins_would_exceed_the_rate(monkeypatch):
    """The simulation notices what it is there for."""
    monkeypatch.setattr("sttrain.bench.inference.holm", list)
    rng = np.random.default_rng(6)
    n, level = 300, 0.2
    wins = sum(
        any(rank.first > 1 for rank in rank_methods(simulate(4, 8, [0] * 4, rng),
                                                    level=level).values())
        for _ in range(n)
    )  # fmt: skip
    assert wins / n > level + 2.6 * np.sqrt(level * (1 - level) / n)


def test_the_interval_covers_and_the_percentiles_alone_do_not():
    rng = np.random.default_rng(3)
    n, n_units = 300, 6
    covered = plain = 0
    chosen = np.random.default_rng(4).integers(0, n_units, (2000, n_units))
    for _ in range(n):
        differences = rng.normal(0, 1, n_units)
        low, high = bootstrap_interval(differences)
        covered += low <= 0 <= high
        a, b = np.quantile(differences[chosen].mean(axis=1), [0.025, 0.975])
        plain += a <= 0 <= b
    assert covered / n >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / n)
    assert plain / n < 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / n)


def test_ranks_are_single_only_where_the_data_supports_it():
    rng = np.random.default_rng(1)
    far = rank_methods(simulate(3, 12, [0, 5, 10], rng))
    assert {name: str(rank) for name, rank in far.items()} == {"m0": "3", "m1": "2", "m2": "1"}
    tied = rank_methods(simulate(3, 12, [0, 0, 10], rng))
    assert {name: str(rank) for name, rank in tied.items()} == {"m0": "2-3", "m1": "2-3", "m2": "1"}
    few = rank_methods(simulate(3, 4, [0, 5, 10], rng))
    assert {str(rank) for rank in few.values()} == {"1-3"}, "four units support no rank"
    low = rank_methods(simulate(3, 12, [0, 5, 10], rng), lower_is_better=True)
    assert str(low["m0"]) == "1"
