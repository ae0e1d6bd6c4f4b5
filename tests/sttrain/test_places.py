"""Which sites are tokens and targets, against plain loops."""

import pytest
import torch

from sttrain.model.places import locate, pick


@pytest.mark.parametrize("elements", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_places_are_those_of_the_masks(seed, elements):
    g = torch.Generator().manual_seed(seed)
    observed = torch.rand(4, 20, generator=g) < 0.7
    observed[0] = seed % 2 == 0  # a patch with all sites, or without one
    hidden = observed & (torch.rand(4, 20, generator=g) < 0.5)
    places = locate(observed, hidden, elements=elements)
    for row in range(4):
        seen = observed[row].nonzero().flatten().tolist()
        secret = hidden[row].nonzero().flatten().tolist()
        assert places.observed[row][places.there[row]].tolist() == seen
        shown = [site for site in seen if site not in secret]
        assert places.visible[row][places.shown[row]].tolist() == shown
        targets = places.targets[row][places.valid[row]].tolist()
        assert targets == (seen if elements else secret)
        if places.seats is not None:
            seats = places.seats[row][places.valid[row]].tolist()
            assert [seen[seat] for seat in seats] == targets
    assert (places.seats is None) is elements


def test_sites_that_are_hidden_but_not_observed_are_no_targets():
    observed = torch.tensor([[True, False, True, False]])
    places = locate(observed, torch.ones(1, 4, dtype=torch.bool), elements=False)
    assert places.targets[places.valid].tolist() == [0, 2]
    assert not places.shown.any()


def test_pick_pads_with_distinct_positions():
    mask = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    index, valid = pick(mask)
    assert index.tolist() == [[1, 3, 0], [0, 1, 2], [0, 1, 2]]
    assert valid.tolist() == [[True, True, False], [True] * 3, [False] * 3]
