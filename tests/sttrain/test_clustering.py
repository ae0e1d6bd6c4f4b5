import importlib.util

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from sttrain.judge.clustering import abnormal_spots, chaos, find_domains

LEIDEN = pytest.mark.skipif(
    importlib.util.find_spec("leidenalg") is None,
    reason="leidenalg is not installed (the extra 'cluster')",
)
ALGORITHMS = ["kmeans", "gmm", pytest.param("leiden", marks=LEIDEN)]


def make_blobs(n=240, k=4, width=5, seed=0):
    """Well separated groups, and positions that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    features = rng.normal(size=(n, width))
    features[np.arange(n), truth] += 12
    return features, truth


def naive_chaos(domains, xy):
    placed = (xy - xy.mean(axis=0)) / xy.std(axis=0)
    total = 0.0
    for i, own in enumerate(domains):
        others = [j for j in range(len(xy)) if j != i and domains[j] == own]
        if len(others) >= 2:
            total += min(float(np.hypot(*(placed[i] - placed[j]))) for j in others)
    return total / len(xy)


def naive_pas(domains, xy):
    abnormal = 0
    for i in range(len(xy)):
        apart = np.hypot(*(xy - xy[i]).T)
        apart[i] = np.inf
        near = np.argsort(apart, kind="stable")[:10]
        abnormal += int(np.sum(domains[near] != domains[i]) > 5)
    return abnormal / len(xy)


@pytest.mark.parametrize("seed", range(3))
def test_chaos_and_pas_equal_the_obvious_computation(seed):
    rng = np.random.default_rng(seed)
    xy = rng.normal(size=(70, 2)) * [1, 40] + 300
    domains = (xy[:, 1] > 300).astype(np.int64) + 2 * (rng.random(70) < 0.3)
    domains[:2], domains[2] = 7, 8  # domains of two spots and of one
    assert chaos(domains, xy) == pytest.approx(naive_chaos(domains, xy))
    assert abnormal_spots(domains, xy) == pytest.approx(naive_pas(domains, xy))


def test_scattered_domains_score_worse_than_bands():
    row, col = np.divmod(np.arange(400), 20)
    xy = np.stack([col, row], axis=1).astype(float)
    bands = (row // 5).astype(np.int64)
    scattered = np.random.default_rng(0).permutation(bands)
    assert abnormal_spots(bands, xy) < 0.1 < 0.5 < abnormal_spots(scattered, xy)
    assert chaos(bands, xy) < chaos(scattered, xy)


def test_one_domain_has_no_abnormal_spot_and_positions_may_lie_on_a_line():
    xy = np.stack([np.arange(30.0), np.zeros(30)], axis=1)
    domains = np.zeros(30, np.int64)
    assert abnormal_spots(domains, xy) == 0
    assert np.isfinite(chaos(domains, xy))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("number", [4, None], ids=["given", "estimated"])
def test_separated_groups_are_found(algorithm, number):
    features, truth = make_blobs()
    found = find_domains(features, algorithm, number, seed=0)
    assert found.min() == 0
    assert adjusted_rand_score(truth, found) > 0.98


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_domains_repeat_themselves(algorithm):
    features = np.random.default_rng(1).normal(size=(150, 6))
    first, again = (find_domains(features, algorithm, 5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.unique(first).size == 5


@pytest.mark.parametrize("algorithm", ["kmeans", "gmm"])
def test_domains_do_not_depend_on_the_unit_of_the_features(algorithm):
    features, _ = make_blobs(n=120)
    found = find_domains(features, algorithm, 3, seed=0)
    scaled = find_domains(features * 1024.0, algorithm, 3, seed=0)
    assert adjusted_rand_score(found, scaled) == 1
