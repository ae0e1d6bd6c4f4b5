from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.fillers import INTERPOLATIONS, NEIGHBOURS, Filler, ModelFiller, load_filler
from sttrain.judge.regions import RegionSource
from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, Reconstruction, normalise
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY, make_whole


def make_source(**changes):
    whole = make_whole(side=14, **changes)
    return RegionSource(whole, whole.genes)


def draw(source, window=8, size=4, n_genes=5, seed=0, number=0):
    return source.draw(window=window, size=size, n_genes=n_genes, seed=seed, number=number)


def dense(whole):
    counts = np.zeros((whole.meta.n_spots, whole.meta.n_genes), np.int64)
    spots = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    counts[spots, whole.indices] = whole.data
    return counts


def change_hidden(whole, hidden, seed=9):
    """The same slice with other counts and library sizes at the hidden spots."""
    counts = dense(whole)
    rng = np.random.default_rng(seed)
    counts[hidden] = rng.permutation(counts[hidden].ravel()).reshape(counts[hidden].shape) * 3 + 1
    stored = counts > 0
    return replace(
        whole,
        indptr=np.concatenate([[0], np.cumsum(stored.sum(axis=1))]).astype(np.int64),
        indices=np.nonzero(stored)[1].astype(np.int32),
        data=counts[stored].astype(np.uint16),
        totals=counts.sum(axis=1).astype(np.uint32),
    )


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 13),
    more=st.integers(1, 12),
    number=st.integers(0, 50),
    seed=st.integers(0, 5),
)
def test_a_region_is_a_square_inside_its_window(size, more, number, seed):
    source, window = make_source(), size + more
    region = draw(source, window=window, size=size, number=number, seed=seed)
    rows, cols = source.whole.rows, source.whole.cols
    assert region.hidden.sum() == size * size
    assert np.ptp(rows[region.hidden]) == np.ptp(cols[region.hidden]) == size - 1
    assert not np.any(region.hidden & region.shown)
    both = region.hidden | region.shown
    top, left = region.corner
    inside = (rows >= top) & (rows < top + window) & (cols >= left) & (cols < left + window)
    np.testing.assert_array_equal(both, inside)
    assert both.sum() == min(window, 14) ** 2  # on the grid wherever it fits


def test_regions_differ_by_number_and_seed_and_repeat_themselves():
    source = make_source()
    corners = [draw(source, number=i).corner for i in range(20)]
    assert len(set(corners)) > 5
    assert corners == [draw(make_source(), number=i).corner for i in range(20)]
    assert corners != [draw(source, number=i, seed=1).corner for i in range(20)]


def test_squares_lie_where_the_slice_has_spots():
    whole = make_whole(side=14)
    kept = np.flatnonzero((whole.rows < 8) & (whole.cols < 8))
    counts = dense(whole)[kept]
    stored = counts > 0
    part = replace(
        whole,
        meta=whole.meta.model_copy(update={"n_spots": kept.size}),
        indptr=np.concatenate([[0], np.cumsum(stored.sum(axis=1))]).astype(np.int64),
        indices=np.nonzero(stored)[1].astype(np.int32),
        data=counts[stored].astype(np.uint16),
        **{n: getattr(whole, n)[kept] for n in ("totals", "rows", "cols", "xy", "labels")},
        barcodes=whole.barcodes[kept],
    )
    source = RegionSource(part, part.genes)
    for number in range(30):
        assert draw(source, number=number).hidden.sum() >= 8


@pytest.mark.parametrize(
    ("window", "size", "words"),
    [(20, 15, "a grid of 14 x 14 sites"), (15, 14, "leave nothing of it")],
)
def test_a_slice_that_is_too_small_is_refused(window, size, words):
    with pytest.raises(BadInputError, match=words):
        draw(make_source(), window=window, size=size)


def test_genes_are_the_most_variable_ones_outside_of_the_square():
    source = make_source()
    region = draw(source, size=6, n_genes=3)
    counts = dense(source.whole)[~region.hidden]
    values = np.log1p(1e4 * counts / source.whole.totals[~region.hidden][:, None])
    expected = np.sort(np.argsort(-values.var(axis=0), kind="stable")[:3])
    np.testing.assert_array_equal(region.genes, expected)


@pytest.mark.parametrize("number", range(3))
def test_nothing_of_the_hidden_spots_reaches_genes_or_fillers(number):
    """Neither their values nor their library sizes; masks are what the test would find leaking."""
    first = make_source()
    region = draw(first, number=number)
    second = RegionSource(change_hidden(first.whole, region.hidden), first.genes)
    again = draw(second, number=number)
    assert not np.array_equal(region.values_of(region.hidden), again.values_of(region.hidden))
    np.testing.assert_array_equal(region.genes, again.genes)
    model = MaskedAutoencoder(TINY, 8, torch.Generator().manual_seed(0)).eval()
    patch = ModelFiller(
        name="p", model=model, digest="d", identity="i", rows=np.arange(8, dtype=np.int32)
    )
    fillers: list[Filler] = [*INTERPOLATIONS.values(), patch]
    for filler in fillers:
        np.testing.assert_allclose(
            filler.fill(region), filler.fill(again), rtol=1e-9, err_msg=filler.name
        )


def test_interpolations_equal_the_obvious_loops():
    source = make_source()
    region = draw(source)
    xy, counts = source.whole.xy, dense(source.whole)
    values = np.log1p(1e4 * counts / source.whole.totals[:, None])[:, region.columns]
    apart = cdist(xy[region.hidden], xy)
    known = np.flatnonzero(~region.hidden)
    near, weighed = [], []
    for distances in apart:
        order = known[np.argsort(np.round(distances[known], 6), kind="stable")][:NEIGHBOURS]
        near.append(values[order].mean(axis=0))
        weights = 1 / distances[region.shown] ** 2
        weighed.append((weights[:, None] * values[region.shown]).sum(axis=0) / weights.sum())
    for name, expected in (
        ("gene-mean", np.tile(values[known].mean(axis=0), (len(apart), 1))),
        ("nearest16", np.asarray(near)),
        ("inverse-distance", np.asarray(weighed)),
    ):
        np.testing.assert_allclose(INTERPOLATIONS[name].fill(region), expected, rtol=1e-5)


@pytest.mark.parametrize("window", [8, 20], ids=["inside", "larger_than_the_grid"])
def test_a_model_is_asked_as_in_training(window):
    """Values come back at the hidden sites in grid order, under the model's own gene numbers."""
    source = make_source()
    region = draw(source, window=window)
    model = MaskedAutoencoder(TINY, 11, torch.Generator().manual_seed(0)).eval()
    rows = np.arange(3, 11, dtype=np.int32)
    filler = ModelFiller(name="p", model=model, digest="d", identity="i", rows=rows)
    P, M = window, region.genes.size
    counts, totals = np.zeros((M, P, P), np.int64), np.zeros((P, P), np.int64)
    hidden = np.zeros((P, P), bool)
    place: dict[int, int] = {}
    all_counts = dense(source.whole)
    for spot in np.flatnonzero(region.hidden | region.shown):
        r = source.whole.rows[spot] - region.corner[0]
        c = source.whole.cols[spot] - region.corner[1]
        counts[:, r, c] = all_counts[spot, region.genes]
        totals[r, c], hidden[r, c] = source.whole.totals[spot], region.hidden[spot]
        if region.hidden[spot]:
            place[r * P + c] = len(place)
    with torch.no_grad():
        genes = torch.from_numpy(rows[region.genes])[None]
        found = model(
            normalise(torch.from_numpy(counts)[None], genes, torch.from_numpy(totals)[None]),
            Hidden(sites=torch.from_numpy(hidden.ravel())[None]),
        )
    expected = np.empty((len(place), M))
    for i, site in enumerate(found.index[0].tolist()):
        expected[place[site]] = found.values[0, :, i].numpy()
    np.testing.assert_allclose(filler.fill(region), expected, rtol=1e-5)


class AllSites(MaskedAutoencoder):
    """Answers for every observed site: the value is the site's number."""

    def __init__(self):
        super().__init__(TINY, 8, torch.Generator().manual_seed(0))

    def forward(self, sites, hidden, domains=None):
        index = torch.arange(sites.observed.shape[1])[None]
        values = index[:, None, :].expand(-1, sites.genes.shape[1], -1).float()
        return Reconstruction(values=values, index=index, valid=sites.observed)


@pytest.mark.parametrize("rates", [False, True])
def test_models_may_answer_for_all_sites_and_in_rates(rates):
    source = make_source()
    region = draw(source)
    filler = ModelFiller(
        name="p",
        model=AllSites(),
        digest="d",
        identity="i",
        rows=np.arange(8, dtype=np.int32),
        rates=rates,
    )
    rows = source.whole.rows[region.hidden] - region.corner[0]
    cols = source.whole.cols[region.hidden] - region.corner[1]
    expected = (rows * 8 + cols).astype(np.float64)
    found = filler.fill(region)[:, 0]
    np.testing.assert_allclose(np.expm1(found) if rates else found,
                               np.exp(expected) if rates else expected, rtol=1e-6)  # fmt: skip


def test_a_model_that_centres_by_slice_gets_the_means_of_what_is_not_hidden():
    source = make_source()
    region = draw(source)
    seen = []

    class Centred(AllSites):
        def __init__(self):
            MaskedAutoencoder.__init__(
                self,
                TINY.model_copy(update={"centre_by": "slice"}),
                8,
                torch.Generator().manual_seed(0),
            )

        def forward(self, sites, hidden, domains=None):
            seen.append(sites.means.numpy())
            return super().forward(sites, hidden, domains)

    ModelFiller(
        name="p", model=Centred(), digest="d", identity="i", rows=np.arange(8, dtype=np.int32)
    ).fill(region)
    expected = region.values_of(~region.hidden).mean(0)
    assert not np.allclose(expected, region.values_of(np.ones_like(region.hidden)).mean(0))
    np.testing.assert_allclose(seen[0][0], expected, rtol=1e-6)


@pytest.mark.parametrize("objective", ["patch", "multispot", "spot"])
def test_only_objectives_that_know_of_hidden_sites_fill_regions(objective, tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "c", kind="cover", n_slices=1, rows=10, cols=10)
    info = SimpleNamespace(
        genes=corpus.genes,
        digest="d",
        identity="i",
        pretext=SimpleNamespace(objective=objective, counts=True),
    )
    monkeypatch.setattr("sttrain.release.encoder.load_encoder", lambda *_, **__: (AllSites(), info))
    load = partial(load_filler, tmp_path, corpus, "x", initial=False, say=print)
    if objective == "spot":
        with pytest.raises(BadUsageError, match="trained on 'spot'; regions are filled by patch"):
            load()
    else:
        filler = load()
        assert isinstance(filler, ModelFiller)
        assert filler.rates
