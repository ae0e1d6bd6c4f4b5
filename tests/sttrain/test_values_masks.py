"""Masks of single sites: as many values as a patch loses, blind to ranks and to padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrain.train.objectives import KINDS, MaskConfig, count_hidden, draw_hidden, draw_values

P, M = 8, 6


def make_wire(seed, filled, n=3):
    g = torch.Generator().manual_seed(seed)
    totals = (torch.rand(n, P, P, generator=g) < filled).long() * 10
    totals[0] = 0
    totals[1, 0, 0] = 4
    real = torch.ones(n, M, dtype=torch.bool)
    real[2, -2:] = False
    return totals, real


def lost(hidden, totals, real):
    """(B,) values of real genes at observed sites that are hidden."""
    open_ = (totals > 0).flatten(1)[:, None] & real[..., None]
    gone = hidden.sites[:, None].expand_as(open_)
    gone = gone if hidden.elements is None else gone | hidden.elements
    return (gone & open_).sum((1, 2))


def draw(draw_, config, totals, **more):
    rows = more.pop("rows", torch.arange(len(totals)))
    return draw_(config, seed=1, epoch=0, step=2, rows=rows, totals=totals, **more)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**31), ratio=st.floats(0.05, 0.95), filled=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_every_objective_is_asked_for_as_many_values(kind, seed, ratio, filled):
    totals, real = make_wire(seed, filled)
    config = MaskConfig(kind=kind, site_ratio=ratio, element_ratio=ratio)
    patches = draw(draw_hidden, config, totals, genes=M)
    singles = draw(draw_values, config, totals, real=real)
    assert not singles.sites.any()
    assert torch.equal(lost(patches, totals, real), lost(singles, totals, real))
    if kind == "element":
        assert torch.equal(patches.elements, singles.elements)


def test_single_values_fall_anywhere():
    """No site and no gene is favoured, and sites are seldom hidden altogether."""
    totals = torch.ones(400, P, P, dtype=torch.int64)
    real = torch.ones(400, M, dtype=torch.bool)
    found = draw(draw_values, MaskConfig(kind="site", site_ratio=0.5), totals, real=real).elements
    share = found.float().mean(0)
    assert share.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert 0.4 < share.min() < share.max() < 0.6
    assert found.all(1).float().mean() < 0.05


def test_visible_values_are_lost_on_top():
    totals = torch.ones(200, P, P, dtype=torch.int64)
    real = torch.ones(200, M, dtype=torch.bool)
    config = MaskConfig(kind="block", site_ratio=0.5, visible_ratio=0.2)
    share = draw(draw_values, config, totals, real=real).elements.float().mean().item()
    assert share == pytest.approx(0.5 + 0.5 * 0.2, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_its_mask_whoever_draws_it(kind):
    totals, real = make_wire(3, 0.8, n=4)
    config = MaskConfig(kind=kind, visible_ratio=0.1)
    whole = draw(draw_values, config, totals, real=real)
    some = torch.tensor([1, 3])
    part = draw(draw_values, config, totals[some], real=real[some], rows=some)
    assert torch.equal(whole.elements[some], part.elements)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_what_is_drawn(kind):
    totals = (torch.rand(300, P, P, generator=torch.Generator().manual_seed(1)) < 0.7).long()
    real = torch.ones(300, M, dtype=torch.bool)
    config = MaskConfig(kind=kind, visible_ratio=0.1)
    found = lost(draw(draw_values, config, totals, real=real), totals, real).sum().item()
    observed = totals.flatten(1).sum(1).numpy()
    assert count_hidden(config, kind, observed, M) == pytest.approx(found, rel=0.01)
