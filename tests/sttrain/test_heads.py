from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from sttrain.heads import KnnHead, MajorityHead, MlpHead, _differentiate, _new_layers, common_scale


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
    found = KnnHead().fit_predict(features, labels, train, seed=0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


def test_knn_does_not_scale_features():
    features, labels, train = make_blobs()
    noise = np.random.default_rng(1).normal(size=(len(features), 1)) * 1e3
    drowned = np.concatenate([features, noise.astype(np.float32)], axis=1)
    found = KnnHead().fit_predict(drowned, labels, train, seed=0)
    assert np.mean(found == labels) < 0.7


def test_mlp_learns_separable_classes():
    features, labels, train = make_blobs()
    found = MlpHead(epochs=12).fit_predict(features, labels, train, seed=0)
    assert np.mean(found == labels) > 0.98


def test_mlp_equals_the_obvious_network():
    features, labels, train = make_blobs()
    features[:, 3:] += np.random.default_rng(2).normal(size=(len(features), 3)) * 4
    found = MlpHead(epochs=5).fit_predict(features, labels, train, seed=7)
    expected = plain_mlp(features, labels, train, seed=7, epochs=5)
    assert np.mean(found == expected) > 0.99


def test_gradients_by_hand_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    layers = _new_layers(6, 3, generator)
    inputs = torch.randn(20, 6, generator=generator)
    targets = torch.randint(0, 3, (20,), generator=generator)
    _differentiate(layers, inputs, targets)
    found = [tensor.grad for layer in layers for tensor in layer]
    free = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in layers]
    hidden = inputs
    for weight, bias in free[:-1]:
        hidden = torch.relu(hidden @ weight + bias)
    scores = hidden @ free[-1][0] + free[-1][1]
    loss = torch.nn.functional.cross_entropy(scores, targets)
    expected = torch.autograd.grad(loss, [tensor for layer in free for tensor in layer])
    for mine, theirs in zip(found, expected, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, theirs)


def test_mlp_repeats_itself_and_depends_on_the_seed():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    labels = rng.integers(0, 3, 200).astype(np.int16)
    first, again, other = (
        MlpHead(epochs=3).fit_predict(features, labels, np.arange(80), seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert bool(np.any(first != other))


def test_mlp_does_not_depend_on_the_unit_of_the_features():
    features, labels, train = make_blobs()
    found = MlpHead(epochs=3).fit_predict(features, labels, train, seed=0)
    scaled = MlpHead(epochs=3).fit_predict(features * 1024, labels, train, seed=0)
    np.testing.assert_array_equal(found, scaled)


def test_mlp_takes_every_epoch_unless_patience_is_asked_for(monkeypatch):
    features, labels, train = make_blobs()
    labels = np.random.default_rng(0).permutation(labels)  # nothing to learn: loss gets worse
    epochs = []
    step = "sttrain.heads._train_epoch"
    original = __import__("sttrain.heads", fromlist=["_train_epoch"])._train_epoch

    def counting(*arguments):
        epochs.append(1)
        return original(*arguments)

    monkeypatch.setattr(step, counting)
    MlpHead(epochs=30).fit_predict(features, labels, train, seed=0)
    assert len(epochs) == 30
    epochs.clear()
    MlpHead(epochs=30, patience=2).fit_predict(features, labels, train, seed=0)
    assert len(epochs) < 30


def test_mlp_with_patience_keeps_the_best_weights():
    features, labels, train = make_blobs()
    found = MlpHead(epochs=20, patience=3).fit_predict(features, labels, train, seed=0)
    assert np.mean(found == labels) > 0.95


def test_mlp_draws_nothing_from_the_global_generator():
    before = torch.random.get_rng_state()
    features, labels, train = make_blobs()
    MlpHead(epochs=1).fit_predict(features, labels, train, seed=0)
    assert bool(torch.equal(before, torch.random.get_rng_state()))


def test_majority_is_the_most_frequent_training_class():
    labels = np.asarray([3, 3, 1, 1, 0, 5], np.int16)
    features = np.zeros((6, 0), np.float32)
    assert set(MajorityHead().fit_predict(features, labels, np.arange(5), 0)) == {1}
    assert set(MajorityHead().fit_predict(features, labels, np.arange(3), 0)) == {3}


@pytest.mark.parametrize(
    "features", [np.zeros((5, 3)), np.zeros((5, 0))], ids=["constant", "no_features"]
)
def test_common_scale_of_nothing_is_one(features):
    assert common_scale(features.astype(np.float32))[1] == 1


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (KnnHead(), "kNN (k=10)"),
        (MlpHead(), "MLP (800 epochs)"),
        (MlpHead(epochs=50, patience=5), "MLP (50 epochs, patience 5)"),
    ],
)
def test_heads_name_what_decides_them(head, name):
    assert head.name == name
