from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sttrain.judge.heads import FitTask, KnnHead, LogisticHead, MajorityHead, MlpHead, standardise
from sttrain.judge.mlp import MlpProblem, differentiate, train_networks


@pytest.fixture(autouse=True)
def one_thread():
    """As in a probe; on a busy machine threads of so small a network wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_blobs(seed=0, n=120, width=6):
    """Three blobs on three axes; the first half trains."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3).astype(np.int16) * 2  # codes with gaps
    features = rng.normal(size=(n, width)).astype(np.float32)
    features[np.arange(n), labels // 2] += 6
    return features, labels, np.arange(n // 2)


def fit_predict(head, features, labels, train, seed):
    """One fit on its own."""
    task = FitTask(features=features, labels=labels, train=train, seed=seed)
    return head.fit([task])[0].predicted


def plain_mlp(features, labels, train, seed, epochs):
    """The same network, written with torch.nn and one optimiser a parameter."""
    classes, targets = np.unique(labels[train], return_inverse=True)
    mean = features[train].astype(np.float64).mean(axis=0)
    scale = np.sqrt(np.mean((features[train] - mean) ** 2))
    scaled = torch.from_numpy((features - mean.astype(np.float32)) / np.float32(scale))
    generator = torch.Generator().manual_seed(seed)
    sizes = [features.shape[1], 512, 256, 128, len(classes)]
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layer = torch.nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            weight = (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) * fan_in**-0.5
            layer.weight.copy_(weight.T)
            layer.bias.copy_((torch.rand(fan_out, generator=generator) * 2 - 1) * fan_in**-0.5)
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        order = torch.randperm(len(train), generator=generator)
        for batch in order.split(32):
            scores = model(scaled[train][batch])
            loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(targets)[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classes[model(scaled).argmax(dim=1).numpy()]


def test_knn_is_the_majority_of_the_ten_nearest():
    features, labels, train = make_blobs()
    near = np.argsort(cdist(features, features[train]), axis=1)[:, :10]
    expected = [np.bincount(labels[train][row]).argmax() for row in near]
    found = fit_predict(KnnHead(), features, labels, train, 0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


def test_knn_does_not_scale_features():
    features, labels, train = make_blobs()
    noise = np.random.default_rng(1).normal(size=(len(features), 1)) * 1e3
    drowned = np.concatenate([features, noise.astype(np.float32)], axis=1)
    found = fit_predict(KnnHead(), drowned, labels, train, 0)
    assert np.mean(found == labels) < 0.7


def test_mlp_learns_separable_classes():
    features, labels, train = make_blobs()
    found = fit_predict(MlpHead(epochs=12), features, labels, train, 0)
    assert np.mean(found == labels) > 0.98


def test_mlp_equals_the_obvious_network():
    features, labels, train = make_blobs()
    features[:, 3:] += np.random.default_rng(2).normal(size=(len(features), 3)) * 4
    found = fit_predict(MlpHead(epochs=5), features, labels, train, 7)
    expected = plain_mlp(features, labels, train, seed=7, epochs=5)
    assert np.mean(found == expected) > 0.99


def test_gradients_by_hand_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    sizes = [6, 8, 5, 3]
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    layers = [(draw(2, o, i), draw(2, o)) for i, o in pairwise(sizes)]
    inputs, targets = draw(2, 20, 6), torch.randint(0, 3, (2, 20, 1), generator=generator)
    shares = torch.full((2, 20, 1), 1 / 20)
    shares[1] = torch.where(torch.arange(20) < 13, 1 / 13, 0.0)[:, None]  # a last batch of 13
    for tensor in (tensor for layer in layers for tensor in layer):
        tensor.grad = torch.zeros_like(tensor)
    differentiate(layers, inputs, targets, shares)
    for problem, n in ((0, 20), (1, 13)):
        free = [(w[problem].clone().requires_grad_(), b[problem].clone().requires_grad_())
                for w, b in layers]  # fmt: skip
        hidden = inputs[problem, :n]
        for weight, bias in free[:-1]:
            hidden = torch.relu(hidden @ weight.T + bias)
        scores = hidden @ free[-1][0].T + free[-1][1]
        loss = torch.nn.functional.cross_entropy(scores, targets[problem, :n, 0])
        expected = torch.autograd.grad(loss, [tensor for layer in free for tensor in layer])
        found = [tensor.grad for layer in layers for tensor in layer]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine is not None
            torch.testing.assert_close(mine[problem], theirs)


def make_problems(**changes):
    """Problems that differ in everything that may differ."""
    rng = np.random.default_rng(4)
    problems = []
    for seed, (n, classes, epochs) in enumerate([(70, 3, 4), (64, 2, 4), (33, 5, 7), (90, 3, 2)]):
        targets = torch.from_numpy(rng.integers(0, classes, n))
        inputs = torch.from_numpy(rng.normal(size=(n, 10)).astype(np.float32))
        problems.append(
            MlpProblem(inputs=inputs, targets=targets, n_classes=classes, seed=seed,
                       **({"epochs": epochs} | changes))
        )  # fmt: skip
    return problems


@pytest.mark.parametrize("patience", [None, 2], ids=["all_epochs", "early_stop"])
def test_networks_do_not_depend_on_what_is_trained_beside_them(patience):
    problems = make_problems(patience=patience)
    together = train_networks(problems)
    backwards = train_networks(problems[::-1])[::-1]
    for problem, found, again in zip(problems, together, backwards, strict=True):
        alone = train_networks([problem])[0]
        assert alone.epochs == found.epochs == again.epochs
        for mine, theirs, others in zip(alone.layers, found.layers, again.layers, strict=True):
            for a, b, c in zip(mine, theirs, others, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)


def test_a_group_of_fits_says_what_each_says_alone():
    features, labels, train = make_blobs()
    cut = [train, train[:37], train[5:]]
    tasks = [
        FitTask(features=features, labels=labels, train=rows, seed=seed)
        for seed, rows in enumerate(cut)
    ]
    for head in (MlpHead(epochs=4), MlpHead(epochs=40, max_steps=5, scaling="each")):
        for task, found in zip(tasks, head.fit(tasks), strict=True):
            np.testing.assert_array_equal(found.predicted, head.fit([task])[0].predicted)


@pytest.mark.parametrize(("n_train", "epochs"), [(32, 5), (33, 2), (160, 1), (1000, 1)], ids=str)
def test_steps_are_capped_in_whole_epochs(n_train, epochs):
    head = MlpHead(epochs=100, max_steps=5)
    assert head.epochs_for(n_train) == epochs
    features, labels, _ = make_blobs(n=n_train)
    task = FitTask(features=features, labels=labels, train=np.arange(n_train), seed=0)
    assert head.fit([task])[0].epochs == epochs


def test_logistic_is_scikit_learns_on_scaled_features():
    features, labels, train = make_blobs()
    features[:, 0] *= 30
    for scaling in ("common", "each"):
        scaled = standardise(features, train, scaling).astype(np.float64)
        model = LogisticRegression(max_iter=1000).fit(scaled[train], labels[train])
        found = fit_predict(LogisticHead(scaling=scaling), features, labels, train, 0)
        np.testing.assert_array_equal(found, model.predict(scaled))


def test_logistic_with_more_features_than_spots_loses_nothing_by_rotation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, 300)).astype(np.float32)
    labels = (np.arange(150) % 3).astype(np.int16)
    features[np.arange(150), labels] += 2
    train = np.arange(60)
    scaled = standardise(features, train, "common").astype(np.float64)
    model = LogisticRegression(max_iter=1000, tol=1e-8).fit(scaled[train], labels[train])
    found = fit_predict(LogisticHead(), features, labels, train, 0)
    assert np.mean(found == model.predict(scaled)) > 0.97


def test_a_solver_that_stops_at_its_limit_says_so(monkeypatch):
    features, labels, train = make_blobs()
    task = FitTask(features=features, labels=labels, train=train, seed=0)
    assert LogisticHead().fit([task])[0].converged is True
    monkeypatch.setattr("sttrain.judge.heads._LOGISTIC_ITERATIONS", 1)
    with pytest.warns(ConvergenceWarning):
        assert LogisticHead().fit([task])[0].converged is False


def test_per_dimension_scaling_gives_every_feature_the_same_say():
    features, labels, train = make_blobs()
    drowned = features.copy()
    drowned[:, 5] *= 1e3
    assert np.mean(fit_predict(KnnHead(), drowned, labels, train, 0) == labels) < 0.7
    each = KnnHead(scaling="each")
    assert np.mean(fit_predict(each, drowned, labels, train, 0) == labels) > 0.9
    np.testing.assert_array_equal(
        fit_predict(each, drowned, labels, train, 0), fit_predict(each, features, labels, train, 0)
    )


def test_mlp_repeats_itself_and_depends_on_the_seed():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    labels = rng.integers(0, 3, 200).astype(np.int16)
    first, again, other = (
        fit_predict(MlpHead(epochs=3), features, labels, np.arange(80), seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert bool(np.any(first != other))


def test_mlp_does_not_depend_on_the_unit_of_the_features():
    features, labels, train = make_blobs()
    found = fit_predict(MlpHead(epochs=3), features, labels, train, 0)
    scaled = fit_predict(MlpHead(epochs=3), features * 1024, labels, train, 0)
    np.testing.assert_array_equal(found, scaled)


def test_mlp_takes_every_epoch_unless_patience_is_asked_for():
    features, labels, train = make_blobs()
    labels = np.random.default_rng(0).permutation(labels)  # nothing to learn: loss gets worse
    task = FitTask(features=features, labels=labels, train=train, seed=0)
    assert MlpHead(epochs=30).fit([task])[0].epochs == 30
    stopped = MlpHead(epochs=30, patience=2).fit([task])[0].epochs
    assert stopped is not None
    assert stopped < 30


def test_mlp_with_patience_keeps_the_best_weights():
    features, labels, train = make_blobs()
    found = fit_predict(MlpHead(epochs=20, patience=3), features, labels, train, 0)
    assert np.mean(found == labels) > 0.95


def test_mlp_draws_nothing_from_the_global_generator():
    before = torch.random.get_rng_state()
    features, labels, train = make_blobs()
    fit_predict(MlpHead(epochs=1), features, labels, train, 0)
    assert bool(torch.equal(before, torch.random.get_rng_state()))


def test_majority_is_the_most_frequent_training_class():
    labels = np.asarray([3, 3, 1, 1, 0, 5], np.int16)
    features = np.zeros((6, 0), np.float32)
    assert set(fit_predict(MajorityHead(), features, labels, np.arange(5), 0)) == {1}
    assert set(fit_predict(MajorityHead(), features, labels, np.arange(3), 0)) == {3}


@pytest.mark.parametrize("scaling", ["common", "each"])
@pytest.mark.parametrize(
    "features",
    [np.zeros((5, 3)), np.full((5, 3), 0.1), np.zeros((5, 0))],
    ids=["zero", "constant", "no_features"],
)
def test_what_does_not_vary_is_centred_and_left_alone(features, scaling):
    found = standardise(features.astype(np.float32), np.arange(5), scaling)
    np.testing.assert_allclose(found, 0, atol=1e-7)


def test_scales_are_taken_from_the_training_rows():
    features = np.random.default_rng(0).normal(2, 3, size=(40, 4)).astype(np.float32)
    features[20:] *= 100
    train = np.arange(20)
    each = standardise(features, train, "each")
    np.testing.assert_allclose(each[:20].std(axis=0), 1, rtol=1e-5)
    common = standardise(features, train, "common")
    np.testing.assert_allclose(np.sqrt(np.mean(common[:20] ** 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(standardise(features, train, "each", rows=train), each[:20])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (KnnHead(), "kNN (k=10)"),
        (MlpHead(), "MLP (800 epochs)"),
        (MlpHead(epochs=50, patience=5), "MLP (50 epochs, patience 5)"),
        (
            MlpHead(max_steps=2000, scaling="each"),
            "MLP (800 epochs, at most 2,000 steps, per dimension)",
        ),
        (KnnHead(k=5, scaling="each"), "kNN (k=5, per dimension)"),
        (LogisticHead(scaling="each"), "logistic (per dimension)"),
    ],
)
def test_heads_name_what_decides_them(head, name):
    assert head.name == name
