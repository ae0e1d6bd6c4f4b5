"""Four units of training: what each may know of other sites, and what never reaches an output."""

import pytest
import torch
from torch.nn.functional import softmax

from sttrain.errors import BadUsageError
from sttrain.model.autoencoder import Hidden, normalise
from sttrain.model.contexts import domain_means, encode_sites
from sttrain.model.multispot import neighbour_weights
from sttrain.model.pretext import ContextConfig
from tests.sttrain.objectives_toys import (
    CONTEXT,
    OBJECTIVES,
    SINGLE,
    TINY,
    B,
    L,
    M,
    P,
    errors,
    make_domains,
    make_hidden,
    make_model,
    make_wire,
    predict,
)


@pytest.fixture
def wire():
    return make_wire()


def changed_at(before, after):
    """(B, L) at which sites a prediction is another one."""
    return ~torch.isclose(before, after, atol=1e-6).all(1)


def alter(wire, b, site, gene=None):
    """The same batch with other counts at one site of a patch, or of one gene of it."""
    counts = wire[0].clone()
    where = slice(None) if gene is None else gene
    counts.flatten(2)[b, where, site] += 3  # a view
    return counts, wire[1], wire[2]


@pytest.mark.parametrize("sites", [False, True], ids=["values", "sites"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hidden_values_reach_no_prediction(wire, objective, sites):
    model, hidden = make_model(objective), make_hidden(wire, sites=sites)
    lost = hidden.elements | hidden.sites[:, None]
    other = torch.where(lost.view(B, M, P, P), wire[0] + 7, wire[0])
    before = predict(model, wire, hidden)
    assert before.abs().sum() > 0
    assert torch.equal(before, predict(model, (other, *wire[1:]), hidden))


@pytest.mark.parametrize("loss", ["mse", "poisson", "nb"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_unobserved_sites_and_padding_change_neither_loss_nor_output(wire, objective, loss):
    model, hidden = make_model(objective, loss), make_hidden(wire, sites=objective == "patch")
    counts, genes, totals = wire
    nothing = (totals == 0)[:, None] | (genes < 0)[..., None, None]
    other = torch.where(nothing, torch.tensor(99), counts)
    before = errors(model, wire, hidden)
    assert bool(torch.isfinite(before).all())
    assert torch.equal(before, errors(model, (other, genes, totals), hidden))
    real = (genes >= 0)[..., None]
    after = predict(model, (other, genes, totals), hidden)
    assert torch.equal(predict(model, wire, hidden) * real, after * real)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_hidden_site_tells_nothing_not_even_its_library_size(wire, objective):
    model, hidden = make_model(objective), make_hidden(wire, sites=True, share=0)
    totals = torch.where(hidden.sites.view(B, P, P), wire[2] * 5, wire[2])
    after = predict(model, (*wire[:2], totals), hidden)
    assert torch.equal(predict(model, wire, hidden), after)


def test_a_spot_knows_only_itself(wire):
    model, hidden = make_model("spot"), make_hidden(wire)
    site = 20
    after = predict(model, alter(wire, 0, site), hidden)
    moved = changed_at(predict(model, wire, hidden), after)
    assert moved.nonzero().tolist() == [[0, site]]


def test_a_spot_is_a_patch_of_one_site(wire):
    """The same encoder class: a window with a single site says the same of it."""
    spots, patches = make_model("spot"), make_model("patch")
    assert not spots.load_state_dict(patches.state_dict()).missing_keys
    found = spots.encode(*wire)
    for site in (5, 20, 35):
        counts, totals = (torch.zeros_like(part) for part in (wire[0], wire[2]))
        counts.flatten(2)[..., site] = wire[0].flatten(2)[..., site]
        totals.flatten(1)[:, site] = wire[2].flatten(1)[:, site]
        alone = patches.encode(counts, wire[1], totals)
        assert torch.allclose(alone[:, site], found[:, site], atol=1e-5)


def test_multispot_knows_its_neighbours_and_not_itself(wire):
    model, hidden = make_model("multispot"), make_hidden(wire)
    site = 20
    after = predict(model, alter(wire, 0, site), hidden)
    moved = changed_at(predict(model, wire, hidden), after)
    assert not moved[0, site]
    assert {14, 19, 21, 26} <= set(moved[0].nonzero().flatten().tolist())  # above, beside, below
    far = [s for s in range(L) if abs(s // P - 3) + abs(s % P - 2) > 3]
    assert not moved[0, far].any()
    assert not moved[1:].any()


def test_slices_know_their_macro_domain(wire):
    model, hidden, domains = make_model("slice"), make_hidden(wire), make_domains()
    site = 20
    after = predict(model, alter(wire, 0, site), hidden)
    moved = changed_at(predict(model, wire, hidden), after)
    observed = wire[2].flatten(1) > 0
    assert torch.equal(moved[0], observed[0] & (domains[0] == domains[0, site]))
    assert not moved[1:].any()


def slow_weights(observed, config):
    """Row by row: sort by distance, share the last places among those that tie for them."""
    weights = torch.zeros(L, L)
    for i in range(L):
        others = [j for j in range(L) if observed[j] and j != i]
        square = {j: (i // P - j // P) ** 2 + (i % P - j % P) ** 2 for j in others}
        left = config.neighbours
        for size in sorted(set(square.values())):
            ring = [j for j in others if square[j] == size]
            share = min(1.0, left / len(ring))
            for j in ring:
                weights[i, j] = share
            left = max(0, left - len(ring))
        if config.weights == "softmax" and others:
            apart = torch.tensor([square[j] ** 0.5 for j in others])
            weights[i, others] *= softmax(-apart / config.tau, 0)
        weights[i] /= weights[i].sum().clamp(min=1e-30)
    return weights


@pytest.mark.parametrize("config", [
    ContextConfig(), ContextConfig(neighbours=5), ContextConfig(neighbours=400),
    ContextConfig(weights="softmax", tau=0.7), ContextConfig(weights="softmax", neighbours=3),
], ids=str)  # fmt: skip
def test_neighbours_are_those_of_the_slow_way(wire, config):
    observed = wire[2].flatten(1) > 0
    index = torch.arange(L).expand(B, L)
    found = neighbour_weights(index, observed, L, config)
    for b in range(B):
        assert torch.allclose(found[b], slow_weights(observed[b], config), atol=1e-6)


def test_a_site_without_neighbours_has_weights_of_zero():
    shown = torch.zeros(1, L, dtype=torch.bool)
    shown[0, 8] = True
    for kind in ("uniform", "softmax"):
        config = ContextConfig(weights=kind)
        weights = neighbour_weights(torch.arange(L)[None], shown, L, config)[0]
        assert weights[8].sum() == 0
        assert torch.equal(weights[9], shown[0].float())


def test_domains_are_averaged_like_the_slow_way():
    g = torch.Generator().manual_seed(1)
    x, domains = torch.randn(B, L, 5, generator=g), make_domains()
    shown = torch.rand(B, L, generator=g) < 0.7
    shown[2] &= domains[2] != 1
    found = domain_means(x, domains, shown, 3)
    for b in range(B):
        for i in range(L):
            mine = x[b][shown[b] & (domains[b] == domains[b, i])]
            mean = mine.mean(0) if len(mine) else torch.zeros(5)
            assert torch.allclose(found[b, i], mean, atol=1e-6)


@pytest.mark.parametrize("objective", SINGLE)
def test_shared_weights_start_alike(objective):
    """The comparison is of units of training: all else begins the same."""
    one, two = make_model("patch").state_dict(), make_model(objective).state_dict()
    assert set(one) <= set(two)
    shared = [name for name in one if name not in {"hidden"}]
    # `make_model` adds noise in the order of the weights, of which `fuse` is the last.
    assert all(torch.equal(one[name], two[name]) for name in shared)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("loss", ["mse", "nb"])
def test_every_weight_that_is_trained_has_a_gradient(wire, objective, loss):
    """DDP waits for each; slopes and the hidden token mean nothing to single sites."""
    model = make_model(objective, loss)
    errors(model, wire, make_hidden(wire, sites=objective == "patch")).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (weight.grad is not None), name
    frozen = {n.split(".")[-1] for n, w in model.named_parameters() if not w.requires_grad}
    assert frozen == (set() if objective == "patch" else {"hidden", "slopes"})


@pytest.mark.parametrize("objective", ["spot", "multispot"])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_features_of_use_are_those_of_training(wire, objective, layer):
    """With nothing hidden the decoder is given the features that `encode` returns."""
    model = make_model(objective)
    found = model.encode(*wire, layer=layer)
    observed = wire[2].flatten(1) > 0
    assert found.shape == (B, L, TINY.width)
    assert not found[~observed].any()
    alone = make_model("spot").encode(*wire, layer=layer)
    if objective == "spot":
        assert torch.equal(found, alone)
        return
    weights = neighbour_weights(torch.arange(L).expand(B, L), observed, L, CONTEXT)
    expected = torch.where(observed[..., None], weights @ alone, 0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_slices_without_domains_are_refused_in_words(wire):
    model = make_model("slice")
    with pytest.raises(BadUsageError, match="macro-domains"):
        model.encode(*wire)
    assert encode_sites(model, normalise(*wire), fused=False).shape == (B, L, TINY.width)


def test_a_batch_that_shows_nothing_is_finite():
    nothing = torch.zeros(1, M, P, P), torch.full((1, M), -1), torch.zeros(1, P, P)
    hidden = Hidden(
        sites=torch.zeros(1, L, dtype=torch.bool), elements=torch.zeros(1, M, L, dtype=torch.bool)
    )
    for objective in OBJECTIVES:
        model = make_model(objective)
        found = errors(model, nothing, hidden, torch.zeros(1, L, dtype=torch.int64))
        found.sum().backward()
        assert found.tolist() == [0.0]
        grads = [w.grad for w in model.parameters() if w.grad is not None]
        assert all(not grad.any() for grad in grads)


def test_positions_of_single_spots_say_nothing(wire):
    """Where a spot lies in its window is no part of the sample."""
    config = TINY.model_copy(update={"position": True})
    model, hidden = make_model("spot", config=config), make_hidden(wire)
    flipped = tuple(part.flip(-1) if part.ndim > 2 else part for part in wire)
    assert hidden.elements is not None
    elements = hidden.elements.view(B, M, P, P).flip(-1).flatten(2)
    mirrored = Hidden(sites=hidden.sites, elements=elements)
    found = predict(model, flipped, mirrored).view(B, M, P, P).flip(-1).flatten(2)
    assert torch.allclose(found, predict(model, wire, hidden), atol=1e-5)
