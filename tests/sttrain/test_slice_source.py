"""Whole slices as samples: which views there are, what they hold, and their macro-domains."""

import shutil

import numpy as np
import pytest

from stbuild.corpus.reader import open_corpus
from sttrain.errors import BadInputError, IntegrityError
from sttrain.model.pretext import ContextConfig
from sttrain.stream.batches import StreamState
from sttrain.stream.order import Order, World
from sttrain.train.domains import find_domains
from sttrain.train.slice_source import SliceSource, SliceStream
from tests.corpora import write_corpus

K = 24
FEW = ContextConfig(domains=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three slices of one size and one that is smaller."""
    return write_corpus(tmp_path_factory.mktemp("views") / "corpus", n_slices=3, n_patches=20)


@pytest.fixture(scope="module")
def source(corpus):
    return SliceSource(corpus, "train", FEW, seed=1)


def dense(whole):
    """(K, N) counts, spot by spot."""
    out = np.zeros((K, whole.meta.n_spots), whole.data.dtype)
    for spot in range(whole.meta.n_spots):
        part = slice(whole.indptr[spot], whole.indptr[spot + 1])
        out[whole.indices[part], spot] = whole.data[part]
    return out


def test_an_epoch_shows_about_the_sites_of_an_epoch_of_patches(source):
    patches = source.patches.index
    for at, slug in enumerate(source.index.slices):
        mine = [o for s, o in zip(patches.slices, patches.observed, strict=True) if s == slug]
        assert abs(source.views[at] * source.spots[at] - sum(mine)) <= source.spots[at] / 2
    assert len(source) == source.views.sum()
    # The sites of 12 patches, to the nearest whole view.
    per_view = patches.observed.sum() / len(source)
    assert source.batch_of(12) == round(12 * patches.observed.mean() / per_view)
    assert source.batch_of(1) == 1


def test_views_hold_the_counts_of_their_slice(corpus, source):
    wholes = {whole.meta.slice: whole for whole in corpus.whole_slices("train")}
    numbers = list(range(len(source)))
    counts, genes, totals = source.read(numbers)
    assert counts.shape == (len(numbers), *source.shape)
    drawn = set()
    for i, number in enumerate(numbers):
        at, view = source.place(number)
        whole = wholes[source.index.slices[at]]
        assert source.key(number) == f"{whole.meta.slice}/view-{view:04d}"
        n = whole.meta.n_spots
        assert np.array_equal(totals[i, 0, :n], whole.totals)
        assert not totals[i, 0, n:].any()
        real = genes[i] >= 0
        assert np.array_equal(np.flatnonzero(real), np.arange(real.sum()))
        assert (np.diff(genes[i][real]) > 0).all()
        assert set(genes[i][real]) <= set(whole.genes)
        assert np.array_equal(counts[i, real, 0, :n], dense(whole)[genes[i][real]])
        assert not counts[i, ~real].any()
        drawn.add((at, tuple(genes[i])))
    assert len(drawn) == len(numbers)  # every view has a draw of its own


def test_views_are_fixed_and_depend_on_the_seed(corpus, source):
    again = SliceSource(corpus, "train", FEW, seed=1)
    other = SliceSource(corpus, "train", FEW, seed=2)
    assert all(map(np.array_equal, source.read([2, 0]), again.read([2, 0])))
    one, two = source.read([0]), source.read([2, 0])
    assert all(np.array_equal(a, b[1:]) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(source.read([0])[1], other.read([0])[1])


@pytest.mark.parametrize(("select", "same"), [("weighted", False), ("hvg", True)])
def test_genes_are_chosen_as_the_corpus_chooses_them(tmp_path, select, same):
    corpus = write_corpus(tmp_path / "c", n_slices=1, n_patches=20, genes=8)
    config = corpus.document.config.model_copy(update={"select": select})
    document = corpus.document.model_copy(update={"config": config})
    source = SliceSource(type(corpus)(corpus.root, document), "train", FEW, seed=1)
    whole = next(corpus.whole_slices("train"))
    logs = np.log1p(dense(whole) / whole.totals * 1e4)
    best = set(np.argsort(-logs.var(1))[:8])
    shares = [len(best & set(genes)) / 8 for genes in source.read(range(3))[1]]
    assert (shares == [1.0] * 3) == same
    assert min(shares) > 0.3


def test_large_slices_give_some_of_their_spots(corpus):
    source = SliceSource(corpus, "train", ContextConfig(domains=4, slice_spots=50), seed=1)
    wholes = {whole.meta.slice: whole for whole in corpus.whole_slices("train")}
    _, _, totals = source.read([0, 1])
    domains = source.domains([0, 1])
    assert source.shape[2] == 50
    assert not np.array_equal(totals[0], totals[1])
    for i in range(2):
        at, view = source.place(i)
        whole = wholes[source.index.slices[at]]
        spots = source._spots(at, view)
        assert len(set(spots.tolist())) == 50
        assert np.array_equal(totals[i, 0], whole.totals[spots])
        assert np.array_equal(domains[i], find_domains(whole, source.context, 1)[spots])
    assert len(source) > len(SliceSource(corpus, "train", FEW, seed=1))


def test_ranks_share_a_batch_and_see_the_same(source):
    order = Order(n_samples=len(source), batch=4, seed=0)
    state = StreamState(epoch=1, step=1)
    whole = SliceStream(source, order).read(state)
    for rank in range(3):
        part = SliceStream(source, order, World(rank=rank, n_ranks=3)).read(state)
        assert part.keys == whole.keys[rank::3]
        for name in ("counts", "genes", "totals", "rows", "domains"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[rank::3])
        assert part.slices == whole.slices[rank::3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_view_once(source, workers):
    order = Order(n_samples=len(source), batch=4, seed=0)
    stream = SliceStream(source, order, workers=workers)
    keys = [key for batch in stream.batches(StreamState(), 1) for key in batch.keys]
    assert sorted(keys) == sorted(map(source.key, range(len(source))))


def inside(values, domains):
    """Share of the variance of `values` (N, X) that is left within domains."""
    kept = sum(
        np.var(values[domains == d], axis=0).sum() * (domains == d).mean()
        for d in np.unique(domains)
    )
    return kept / np.var(values, axis=0).sum()


def test_domains_weigh_place_and_expression(corpus):
    whole = next(corpus.whole_slices("train"))
    logs = np.log1p(dense(whole) / whole.totals * 1e4).T
    found = {
        share: find_domains(whole, ContextConfig(domains=6, domain_position=share), 0)
        for share in (0.0, 0.5, 1.0)
    }
    genes = [inside(logs, found[share]) for share in sorted(found)]
    places = [inside(whole.xy, found[share]) for share in sorted(found)]
    assert genes == sorted(genes)
    assert places == sorted(places, reverse=True)
    shuffled = np.random.default_rng(0).permutation(found[0.5])
    assert genes[1] < 0.9 * inside(logs, shuffled)
    assert places[1] < 0.5 * inside(whole.xy, shuffled)


def test_domains_are_the_same_every_time(corpus):
    whole = next(corpus.whole_slices("train"))
    one, other = find_domains(whole, FEW, 0), find_domains(whole, FEW, 1)
    assert np.array_equal(one, find_domains(whole, FEW, 0))
    assert not np.array_equal(one, other)
    assert np.unique(one).size == 4


def test_domains_look_at_no_label(corpus):
    whole = next(corpus.whole_slices("train"))
    shuffled = whole.labels.copy()
    np.random.default_rng(0).shuffle(shuffled)
    other = type(whole)(**{**vars(whole), "labels": shuffled})
    assert np.array_equal(find_domains(whole, FEW, 0), find_domains(other, FEW, 0))


def test_a_slice_of_few_spots_has_few_domains(corpus):
    whole = next(corpus.whole_slices("train"))
    n = 3
    stop = int(whole.indptr[n])
    fields = vars(whole) | {
        "meta": whole.meta.model_copy(update={"n_spots": n}),
        "indptr": whole.indptr[: n + 1], "indices": whole.indices[:stop],
        "data": whole.data[:stop], "totals": whole.totals[:n], "xy": whole.xy[:n],
    }  # fmt: skip
    assert sorted(find_domains(type(whole)(**fields), ContextConfig(), 0)) == [0, 1, 2]


def test_a_corpus_without_whole_slices_is_refused_in_words(corpus, eval_corpus):
    shards = tuple(s for s in corpus.document.shards if s.kind == "patch")
    document = corpus.document.model_copy(update={"shards": shards})
    with pytest.raises(BadInputError, match="stbuild shard --whole-slices"):
        SliceSource(type(corpus)(corpus.root, document), "train", FEW, seed=1)


def test_a_damaged_slice_is_named(corpus, tmp_path):
    shutil.copytree(corpus.root, tmp_path / "c")
    copy = open_corpus(tmp_path / "c")
    shard = copy.root / copy.document.shards_of("train", "slice")[0].path
    raw = bytearray(shard.read_bytes())
    raw[2000] ^= 1
    shard.write_bytes(raw)
    source = SliceSource(copy, "train", FEW, seed=1)
    with pytest.raises(IntegrityError, match="fails its digest"):
        source.read(range(len(source)))


def test_whole_slices_of_the_builder_are_read(train_corpus):
    """`stbuild shard --whole-slices` writes what the objective needs."""
    for split in train_corpus.document.splits("slice"):
        source = SliceSource(train_corpus, split, FEW, seed=0)
        counts, _, totals = source.read([0])
        at, _ = source.place(0)
        whole = next(
            w for w in train_corpus.whole_slices(split) if w.meta.slice == source.index.slices[at]
        )
        assert np.array_equal(totals[0, 0, : whole.meta.n_spots], whole.totals)
        assert counts.any()
