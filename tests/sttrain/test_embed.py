from dataclasses import replace

import numpy as np
import pytest
import torch

from sttrain import embed
from sttrain.embed import embed_corpus
from sttrain.errors import BadInputError, IntegrityError
from sttrain.evaluation import read_patch
from tests.corpora import write_corpus


class ToyEncoder:
    """Features that tell a site, its window and its genes apart: nothing is learnt."""

    def encode(self, counts, genes, totals, layer=None):
        B, _, P, _ = counts.shape
        observed = (totals > 0).float()
        weights = torch.sin(genes.float())[:, :, None, None] * (genes >= 0)[:, :, None, None]
        mixed = (counts.float().log1p() * weights).sum(1)
        place = torch.arange(P * P, dtype=torch.float32).view(1, P, P).expand(B, P, P)
        around = observed.mean(dim=(1, 2), keepdim=True).expand(B, P, P)
        stacked = torch.stack([mixed, place, around], dim=-1) * observed[..., None]
        return stacked.flatten(1, 2) * (1 if layer is None else layer + 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, draws=2, splits=("test", "val"))


def run(corpus, **options):
    return embed_corpus(corpus, ToyEncoder(), provenance={"checkpoint": "c" * 64}, **options)


def test_vectors_are_means_over_all_windows_and_draws(corpus):
    found = run(corpus, batch=5).embeddings
    for split in corpus.document.splits("slice"):
        index = corpus.index(split)
        for whole in corpus.whole_slices(split):
            vectors: list[list[np.ndarray]] = [[] for _ in range(whole.meta.n_spots)]
            for i in range(len(index)):
                patch = read_patch(corpus, split, index, i)
                if patch.meta.slice != whole.meta.slice:
                    continue
                assert patch.spots is not None
                features = ToyEncoder().encode(
                    torch.from_numpy(patch.counts.astype(np.int32))[None],
                    torch.from_numpy(patch.genes.copy())[None],
                    torch.from_numpy(patch.totals.astype(np.int64))[None],
                )[0].numpy()  # fmt: skip
                for spot, vector in zip(patch.spots.ravel(), features, strict=True):
                    if spot >= 0:
                        vectors[spot].append(vector)
            expected = [np.mean(np.stack(v).astype(np.float64), axis=0) for v in vectors]
            part = found.slices[whole.meta.slice]
            np.testing.assert_allclose(part.matrix, expected, rtol=1e-5, atol=1e-6)
            assert part.matrix.dtype == np.float32
            assert part.barcodes == tuple(raw.decode() for raw in whole.barcodes)


def test_vectors_do_not_depend_on_the_batch_size(corpus):
    first = run(corpus, batch=1).embeddings
    for batch in (3, 64):
        again = run(corpus, batch=batch).embeddings
        for slug, part in first.slices.items():
            np.testing.assert_allclose(again.slices[slug].matrix, part.matrix, rtol=1e-6)


def test_every_slice_of_every_split_is_there_with_labels(corpus):
    found = run(corpus).embeddings
    assert list(found.slices) == ["toy0", "toy1"]
    assert set(found.slices["toy1"].labels) <= {*corpus.document.labels, None}


def test_coverage_counts_windows_and_draws(corpus):
    for found in run(corpus).coverage:
        index = [corpus.index(split) for split in corpus.document.splits()]
        n_windows = sum(list(i.slices).count(found.slice) for i in index)
        assert found.n_windows == n_windows
        assert 2 <= found.fewest <= found.mean <= found.most
        assert f"{found.n_spots} of {found.n_spots} spots" in str(found)


def test_provenance_names_corpus_and_layer_but_no_place_or_time(corpus):
    provenance = run(corpus, layer=2).embeddings.provenance
    assert provenance == {
        "checkpoint": "c" * 64,
        "corpus": "toy",
        "corpus_id": corpus.document.corpus_id,
        "layer": 2,
    }


def test_a_layer_is_handed_to_the_encoder(corpus):
    plain, second = run(corpus).embeddings, run(corpus, layer=1).embeddings
    for slug, part in plain.slices.items():
        np.testing.assert_allclose(second.slices[slug].matrix, 3 * part.matrix, rtol=1e-6)


def test_a_spot_in_no_window_is_an_error(corpus, monkeypatch):
    original = embed._positions_by_slice
    monkeypatch.setattr(
        embed,
        "_positions_by_slice",
        lambda index: {slug: found[-2:] for slug, found in original(index).items()},
    )
    with pytest.raises(BadInputError, match=r"spots are in no window \(first: toy0-"):
        run(corpus)


def test_vectors_that_are_not_finite_are_an_error(corpus, monkeypatch):
    original = ToyEncoder.encode
    monkeypatch.setattr(ToyEncoder, "encode", lambda *a, **k: original(*a, **k) / 0)
    with pytest.raises(BadInputError, match="vectors are not finite"):
        run(corpus)


@pytest.mark.parametrize("fault", ["beyond", "twice", "unmeasured", "absent"])
def test_patches_that_point_at_wrong_spots_are_damaged(corpus, monkeypatch, fault):
    def spoil(*arguments):
        patch = read_patch(*arguments)
        if fault == "absent":
            return replace(patch, spots=None)
        assert patch.spots is not None
        spots = patch.spots.copy()
        rows, cols = np.nonzero(spots >= 0)
        if fault == "beyond":
            spots[rows[0], cols[0]] = 100_000
        elif fault == "twice":
            spots[rows[0], cols[0]] = spots[rows[1], cols[1]]
        else:
            spots[rows[0], cols[0]] = -1
        return replace(patch, spots=spots)

    monkeypatch.setattr(embed, "read_patch", spoil)
    with pytest.raises(IntegrityError, match="sample 'toy0_r"):
        run(corpus)


def test_a_training_corpus_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "train", n_slices=1, n_patches=2)
    with pytest.raises(BadInputError, match="an evaluation corpus was expected"):
        run(corpus)


def test_progress_ends_below_the_number_of_patches(corpus):
    calls = []
    run(corpus, batch=4, progress=lambda *seen: calls.append(seen))
    total = sum(s.n_samples for s in corpus.document.shards if s.kind == "patch")
    assert {seen[1] for seen in calls} == {total}
    assert [seen[0] for seen in calls] == sorted(seen[0] for seen in calls)
    assert calls[-1][0] < total
