"""Masks: keyed, exact in number, blind to workers and ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sttrain.train.objectives import MaskConfig, draw_hidden, draw_kind, keyed_generator

P, M = 8, 5


def draw(config, rows=(0, 1, 2), *, seed=1, epoch=0, step=0, totals=None):
    if totals is None:
        totals = torch.ones(len(rows), P, P, dtype=torch.int64)
        totals[:, 0] = 0
    return draw_hidden(
        config, seed=seed, epoch=epoch, step=step, rows=torch.tensor(rows), totals=totals, genes=M
    )


@pytest.mark.parametrize("kind", ["site", "block"])
@given(seed=st.integers(0, 2**62), ratio=st.floats(0.05, 0.95), filled=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_hides_the_wanted_share_of_observed_sites(kind, seed, ratio, filled):
    g = torch.Generator().manual_seed(seed % 2**31)
    totals = (torch.rand(3, P, P, generator=g) < filled).long() * 10
    totals[0] = 0
    totals[1, 0, 0] = 4
    hidden = draw(MaskConfig(kind=kind, site_ratio=ratio), seed=seed, totals=totals)
    observed = totals.flatten(1) > 0
    assert not (hidden.sites & ~observed).any()
    for n, h in zip(observed.sum(1).tolist(), hidden.sites.sum(1).tolist(), strict=True):
        assert h == max(0, min(max(round(ratio * n), 1), n - 1))
    assert hidden.elements is None


def test_hides_the_wanted_share_of_elements():
    hidden = draw(MaskConfig(kind="element", element_ratio=0.3), rows=tuple(range(200)))
    assert not hidden.sites.any()
    assert hidden.elements.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_visible_sites_can_lose_values_too():
    hidden = draw(MaskConfig(kind="site", visible_ratio=0.2), rows=tuple(range(200)))
    assert hidden.sites.any()
    assert hidden.elements.float().mean().item() == pytest.approx(0.2, abs=0.01)


def test_blocks_are_contiguous():
    """Neighbours of hidden sites are hidden more often than among sites hidden at random."""

    def together(kind):
        config = MaskConfig(kind=kind, site_ratio=0.4, block_sides=(3, 4))
        totals = torch.ones(300, P, P, dtype=torch.int64)
        hidden = draw(config, rows=tuple(range(300)), totals=totals).sites.view(-1, P, P)
        return (hidden[:, 1:] & hidden[:, :-1]).float().mean().item()

    assert together("block") > together("site") + 0.05


@pytest.mark.parametrize("kind", ["site", "block"])
def test_no_place_is_favoured(kind):
    config = MaskConfig(kind=kind, site_ratio=0.5)
    totals = torch.ones(2000, P, P, dtype=torch.int64)
    share = draw(config, rows=tuple(range(2000)), totals=totals).sites.float().mean(0)
    assert share.min() > 0.4
    assert share.max() < 0.6


@pytest.mark.parametrize("kind", ["site", "block", "element"])
def test_a_row_has_its_mask_whoever_draws_it(kind):
    """However a global batch is cut into ranks, each patch loses the same values."""
    config = MaskConfig(kind=kind, visible_ratio=0.1)
    whole, part = draw(config, rows=(0, 1, 2, 3)), draw(config, rows=(1, 3))
    assert torch.equal(whole.sites[[1, 3]], part.sites)
    assert torch.equal(whole.elements[[1, 3]], part.elements)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"step": 1}, {"rows": (1, 2, 3)}])
def test_masks_differ_from_draw_to_draw(change):
    config = MaskConfig(kind="site")
    assert not torch.equal(draw(config).sites, draw(config, **change).sites)


def test_a_mix_has_its_shares():
    config = MaskConfig(mix=(0.5, 0.2, 0.3))
    kinds = [draw_kind(config, 7, 0, step) for step in range(2000)]
    shares = [kinds.count(kind) / len(kinds) for kind in ("site", "block", "element")]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.04)


def test_masks_are_golden():
    """The masks of last year's runs come again."""
    g = keyed_generator("mask", 0, 1, 2, 3)
    assert g.initial_seed() == 4089637023463415832
    hidden = draw(MaskConfig(kind="site", site_ratio=0.1), rows=(0,)).sites
    assert np.flatnonzero(hidden.numpy()).tolist() == [9, 11, 14, 35, 49, 53]


@pytest.mark.parametrize("wrong", [
    {"mix": (0.5, 0.2, 0.2)}, {"mix": (1.5, -0.5, 0.0)}, {"block_sides": (5, 4)},
    {"block_sides": (0, 4)}, {"site_ratio": 1.0}, {"element_ratio": 0.0}, {"visible_ratio": 1.0},
])  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValidationError):
        MaskConfig(**wrong)
