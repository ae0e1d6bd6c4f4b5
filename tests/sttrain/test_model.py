"""The masked autoencoder: shapes, and what must never reach a token, an output or a loss."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from sttrain.model.autoencoder import (
    Hidden,
    MaskedAutoencoder,
    ModelConfig,
    gather_sites,
    normalise,
)
from sttrain.model.layers import distances, position_code
from sttrain.train.objectives import squared_errors

K, B, M, P = 30, 3, 12, 6
L = P * P
TINY = ModelConfig(
    width=16, layers=2, heads=4, ffn=32, decoder_width=8, decoder_layers=1, decoder_heads=2,
    decoder_ffn=16,
)  # fmt: skip


def make_model(config=TINY, seed=0) -> MaskedAutoencoder:
    model = MaskedAutoencoder(config, K, torch.Generator().manual_seed(seed))
    means = torch.rand(K, generator=torch.Generator().manual_seed(9))
    model.set_statistics(means, 4.0)
    # Slight noise everywhere, so that no term of the forward pass is zero by its initial value.
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    return model.eval()


@pytest.fixture
def wire():
    """Counts, genes with two paddings, totals with some unobserved sites."""
    g = torch.Generator().manual_seed(5)
    counts = torch.randint(0, 6, (B, M, P, P), generator=g)
    genes = torch.stack([torch.randperm(K, generator=g)[:M].sort().values for _ in range(B)])
    genes[:, -2:] = -1
    totals = counts.sum(1) + 50
    totals[:, 0, :4] = 0
    totals[1, 2] = 0
    counts = counts * (totals > 0)[:, None] * (genes >= 0)[..., None, None]
    return counts, genes, totals


@pytest.fixture
def hidden(wire):
    g = torch.Generator().manual_seed(6)
    observed = wire[2].flatten(1) > 0
    return Hidden(
        sites=observed & (torch.rand(B, L, generator=g) < 0.5),
        elements=torch.rand(B, M, L, generator=g) < 0.3,
    )


def encode_part(model, wire, i):
    counts, genes, totals = (part[i : i + 1] for part in wire)
    return model.encode(counts, genes, totals)


def loss_of(model, wire, hidden):
    sites = normalise(*wire)
    errors, counts = squared_errors(sites, hidden, model(sites, hidden))
    return errors, counts


def test_normalisation_is_log1p_of_cp10k(wire):
    counts, genes, totals = wire
    sites = normalise(*wire)
    expected = torch.log1p(1e4 * counts / totals.clamp(min=1)[:, None]).flatten(2)
    expected[(genes < 0)[..., None].expand_as(expected)] = 0
    expected = expected * (totals > 0).flatten(1)[:, None]
    assert torch.allclose(sites.values, expected, atol=1e-6)
    assert torch.equal(sites.depth, torch.log1p(totals.flatten(1).float()))


def test_unobserved_counts_become_zero(wire):
    """A publisher's count at a site without a total is no value."""
    counts, genes, totals = wire
    assert not normalise(counts + 7, genes, totals).values[:, :, :4].any()


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_features_of_every_site(wire, layer):
    counts, genes, totals = wire
    features = make_model().encode(counts, genes, totals, layer)
    observed = wire[2].flatten(1) > 0
    assert features.shape == (B, L, TINY.width)
    assert features.dtype == torch.float32
    assert features[observed].abs().sum(-1).min() > 0
    assert not features[~observed].any()


def test_features_do_not_depend_on_the_batch(wire):
    model = make_model()
    together = model.encode(*wire)
    alone = torch.cat([encode_part(model, wire, i) for i in range(B)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("config", [
    pytest.param(TINY, id="default"),
    pytest.param(TINY.model_copy(update={"position": False}), id="no_position"),
    pytest.param(TINY.model_copy(update={"local": False}), id="no_distance"),
    pytest.param(TINY.model_copy(update={"library_size": False}), id="no_library_size"),
])  # fmt: skip
def test_what_does_not_count_changes_nothing(wire, hidden, config):
    """Values at unobserved sites and of padding genes reach neither output nor loss."""
    model = make_model(config)
    counts, genes, totals = wire
    changed = counts.clone()
    changed[(totals == 0)[:, None].expand_as(counts)] = 99
    changed[(genes < 0)[..., None, None].expand_as(counts)] = 77
    assert torch.equal(model.encode(*wire), model.encode(changed, genes, totals))
    for old, new in zip(
        loss_of(model, wire, hidden), loss_of(model, (changed, genes, totals), hidden), strict=True
    ):
        assert torch.equal(old, new)


def test_hidden_values_reach_no_prediction(wire, hidden):
    """Whatever is hidden may be anything: the predictions are the same."""
    model, sites = make_model(), normalise(*wire)
    secret = hidden.sites[:, None, :] | hidden.elements
    other = torch.where(secret, 1e3, sites.values)
    depth = torch.where(hidden.sites, 55.0, sites.depth)
    before = model(sites, hidden).values
    assert torch.equal(before, model(replace(sites, values=other, depth=depth), hidden).values)


def test_visible_values_do_reach_predictions(wire, hidden):
    """The test above can fail."""
    model, sites = make_model(), normalise(*wire)
    before = model(sites, hidden).values
    assert not torch.allclose(before, model(replace(sites, values=sites.values + 1), hidden).values)


def test_loss_counts_hidden_observed_real_values_only(wire, hidden):
    model, sites = make_model().requires_grad_(False), normalise(*wire)
    found = model(sites, hidden)
    errors, counts = squared_errors(sites, hidden, found)
    for b in range(B):
        total, n = 0.0, 0
        for t, site in enumerate(found.index[b].tolist()):
            for g in range(M):
                secret = hidden.sites[b, site] or hidden.elements[b, g, site]
                if secret and sites.observed[b, site] and sites.real[b, g] and found.valid[b, t]:
                    total += float((found.values[b, g, t] - sites.values[b, g, site]) ** 2)
                    n += 1
        assert int(counts[b]) == n
        assert float(errors[b]) == pytest.approx(total, rel=1e-4)


def test_targets_that_do_not_count_move_no_loss(wire, hidden):
    sites = normalise(*wire)
    found = make_model()(sites, hidden)
    secret = (
        (hidden.sites[:, None, :] | hidden.elements)
        & sites.observed[:, None]
        & sites.real[..., None]
    )
    other = torch.where(secret, sites.values, float("nan"))
    expected = squared_errors(sites, hidden, found)
    assert all(
        map(torch.equal, expected, squared_errors(replace(sites, values=other), hidden, found))
    )


def test_hidden_sites_alone_are_the_targets(wire, hidden):
    alone = Hidden(sites=hidden.sites)
    found = make_model()(normalise(*wire), alone)
    assert found.index.shape[1] == int(hidden.sites.sum(1).max())
    _, counts = squared_errors(normalise(*wire), alone, found)
    assert counts.tolist() == (hidden.sites.sum(1) * (M - 2)).tolist()


def test_a_patch_that_shows_nothing_stays_finite(wire):
    model, sites = make_model(), normalise(*wire)
    found = model(sites, Hidden(sites=sites.observed))
    assert torch.isfinite(found.values).all()
    nothing = (wire[0] * 0, wire[1], wire[2] * 0)
    assert not model.encode(*nothing).any()


def test_every_weight_learns(wire, hidden):
    model = make_model()
    errors, counts = loss_of(model, wire, hidden)
    (errors.sum() / counts.sum()).backward()
    still = [n for n, w in model.named_parameters() if w.grad is None or not w.grad.any()]
    assert still == []


def test_gene_order_does_not_matter(wire):
    """Channels are a set: their order reaches no feature."""
    counts, genes, totals = wire
    shuffled = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    model = make_model()
    again = model.encode(counts[:, shuffled], genes[:, shuffled], totals)
    assert torch.allclose(model.encode(*wire), again, atol=1e-5)


def test_without_position_features_follow_the_sites(wire):
    """Distances alone are blind to where in the window a site stands: mirror in, mirror out."""
    model = make_model(TINY.model_copy(update={"position": False}))
    counts, genes, totals = wire
    straight = model.encode(*wire).view(B, P, P, -1).flip(2)
    mirrored = model.encode(counts.flip(3), genes, totals.flip(2)).view(B, P, P, -1)
    assert torch.allclose(straight, mirrored, atol=1e-5)


def test_the_same_seed_gives_the_same_weights():
    one, two, other = (make_model(seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["table"], other["table"])


def test_building_a_model_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    make_model()
    assert torch.equal(before, torch.random.get_rng_state())


def test_statistics_are_ignored_without_centring():
    model = make_model(TINY.model_copy(update={"centre": False}))
    assert not model.gene_mean.any()


def test_predictions_start_near_the_gene_means(wire, hidden):
    model = MaskedAutoencoder(TINY, K, torch.Generator().manual_seed(0))
    model.set_statistics(torch.linspace(0, 3, K), 4.0)
    sites = normalise(*wire)
    expected = model.gene_mean[sites.genes][..., None]
    assert (model(sites, hidden).values - expected).abs().max() < 0.5


def test_gather_sites():
    index = torch.tensor([[1, 3, 0]])
    assert gather_sites(torch.arange(8).view(1, 2, 4), index).tolist() == [[[1, 3, 0], [5, 7, 4]]]


def test_places():
    code = position_code(L, 16, torch.device("cpu"))
    assert code.shape == (L, 16)
    assert len({tuple(row) for row in code.tolist()}) == L
    apart = distances(torch.tensor([[0, 1, P, P + 1]]), L)[0, 0]
    assert apart[0].tolist() == pytest.approx([0, 1, 1, 2**0.5], abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 20, "heads": 8},
        {"width": 18, "heads": 2},
        {"decoder_width": 12, "decoder_heads": 8},
        {"layers": 0},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValidationError):
        ModelConfig(**wrong)


def test_the_defaults_are_the_papers():
    """Section 4.2: six layers, eight heads, width 256, feed-forward 1024, two decoder layers."""
    config = ModelConfig()
    sizes = (config.layers, config.heads, config.width, config.ffn, config.decoder_layers)
    assert sizes == (6, 8, 256, 1024, 2)
    assert config.decoder_width < config.width
    assert all(a <= b for a, b in pairwise((config.decoder_ffn, config.ffn)))
