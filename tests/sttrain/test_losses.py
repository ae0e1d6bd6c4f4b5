"""Losses of counts against SciPy; smoothed targets against a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import nbinom, poisson

from sttrain.model.autoencoder import normalise
from sttrain.train.losses import count_errors, smooth_targets
from sttrain.train.objectives import squared_errors
from tests.sttrain.objectives_toys import (
    TINY,
    B,
    L,
    M,
    P,
    errors,
    make_hidden,
    make_model,
    make_wire,
)


@torch.no_grad()
@pytest.mark.parametrize("loss", ["poisson", "nb"])
def test_likelihoods_are_those_of_scipy(loss):
    wire = make_wire()
    counts, genes, totals = wire
    model, hidden = make_model("patch", loss), make_hidden(wire, sites=True)
    sites = normalise(*wire)
    found = model(sites, hidden)
    expected = np.zeros(B)
    for b in range(B):
        for m in range(M):
            for t, site in enumerate(found.index[b].tolist()):
                gone = hidden.sites[b, site] or hidden.elements[b, m, site]
                total = int(totals.flatten(1)[b, site])
                if not gone or genes[b, m] < 0 or not total or not found.valid[b, t]:
                    continue
                # The library size is an offset: rates are per 10,000 molecules.
                mean = float(found.values[b, m, t].exp()) * total / 1e4
                count = int(counts.flatten(2)[b, m, site])
                if loss == "poisson":
                    expected[b] -= poisson.logpmf(count, mean)
                else:
                    r = float(model.dispersion[genes[b, m]].exp())
                    expected[b] -= nbinom.logpmf(count, r, r / (r + mean))
    got = count_errors(sites, hidden, found, counts, totals)
    assert np.allclose(got.detach().numpy(), expected, rtol=1e-4)


def test_counts_are_predicted_for_the_depth_of_the_site():
    """Twice the molecules of everything at a hidden site: the same rates, twice the mean."""
    wire = make_wire()
    model, hidden = make_model("patch", "poisson"), make_hidden(wire, sites=True, share=0)
    sites = normalise(*wire)
    found = model(sites, hidden)
    best = found.values.exp() * wire[2].flatten(1).gather(1, found.index)[:, None] / 1e4

    def at(factor):
        counts = torch.zeros(B, M, L).scatter(
            2, found.index[:, None].expand(-1, M, -1), best * factor
        )
        totals = torch.where(hidden.sites.view(B, P, P), wire[2] * factor, wire[2])
        values = counts.view(B, M, P, P)
        means = count_errors(sites, hidden, found, values, totals)
        less = count_errors(sites, hidden, found, values, wire[2])
        return means.sum(), less.sum()

    right, wrong = at(2)
    assert right < wrong


@pytest.mark.parametrize("loss", ["poisson", "nb"])
def test_the_loss_and_only_that_loss_has_its_weights(loss):
    names = set(make_model("patch", loss).state_dict()) - set(make_model("patch").state_dict())
    assert names == {"log_rate"} | ({"dispersion"} if loss == "nb" else set())


def test_losses_of_counts_begin_at_the_rates_of_the_corpus():
    model = make_model("spot", "poisson")
    with torch.no_grad():
        model.table.zero_()
    wire = make_wire()
    sites = normalise(*wire)
    found = model(sites, make_hidden(wire))
    expected = model.log_rate[sites.genes][..., None].expand_as(found.values)
    assert torch.equal(found.values, expected)


def slow_smooth(values, observed, share):
    out = torch.zeros_like(values)
    for b in range(B):
        for y in range(P):
            for x in range(P):
                if not observed[b, y * P + x]:
                    continue
                around = [
                    v * P + u
                    for v in range(max(0, y - 1), min(P, y + 2))
                    for u in range(max(0, x - 1), min(P, x + 2))
                    if observed[b, v * P + u]
                ]
                mean = values[b][:, around].mean(1)
                own = values[b, :, y * P + x]
                out[b, :, y * P + x] = (1 - share) * own + share * mean
    return out


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_targets_are_smoothed_over_observed_sites(share):
    sites = normalise(*make_wire())
    found = smooth_targets(sites, share)
    assert torch.allclose(found, slow_smooth(sites.values, sites.observed, share), atol=1e-5)


def test_a_mixed_target_is_a_mixed_loss():
    """The gradient of the error to the mixture is that of the mixture of errors."""
    wire = make_wire()
    hidden = make_hidden(wire, sites=True)

    def gradient(share):
        model = make_model("patch", config=TINY)
        sites = normalise(*wire)
        found = model(sites, hidden)
        values = smooth_targets(sites, share)
        squared_errors(replace(sites, values=values), hidden, found)[0].sum().backward()
        return model.table.grad

    mixed = 0.3 * gradient(1.0) + 0.7 * gradient(0.0)
    assert torch.allclose(gradient(0.3), mixed, atol=1e-4)


def test_squared_errors_are_the_default():
    wire = make_wire()
    model, hidden = make_model(), make_hidden(wire, sites=True)
    sites = normalise(*wire)
    expected = squared_errors(sites, hidden, model(sites, hidden))[0]
    assert torch.equal(errors(model, wire, hidden), expected)
