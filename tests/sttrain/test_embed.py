from dataclasses import replace

import numpy as np
import pytest
import torch

from sttrain.embed import spots as embed
from sttrain.embed.embeddings import read_embeddings
from sttrain.embed.evaluation import read_patch
from sttrain.embed.spots import embed_checkpoint, embed_corpus
from sttrain.errors import BadInputError, BadUsageError, ConflictError, IntegrityError
from sttrain.model.inference import InferenceConfig
from sttrain.model.pretext import Pretext
from tests.corpora import write_corpus
from tests.sttrain.judged import write_run


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


@pytest.mark.parametrize("objective", ["patch", "slice"])
def test_vectors_do_not_depend_on_the_number_of_cores(corpus, tmp_path, objective):
    pretext = Pretext(objective=objective)
    folder, before = write_run(tmp_path / "run", corpus, pretext=pretext), torch.get_num_threads()
    made = []
    try:
        for cores in (1, 2, 5):
            torch.set_num_threads(cores)
            out = tmp_path / f"{cores}.parquet"
            embed_checkpoint(folder, corpus.root, out, batch=3)
            made.append(out.read_bytes())
    finally:
        torch.set_num_threads(before)
    assert made == [made[0]] * 3


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
    provenance = run(corpus, inference=InferenceConfig(layer=2, centre=True)).embeddings.provenance
    assert provenance == {
        "checkpoint": "c" * 64,
        "corpus": "toy",
        "corpus_id": corpus.document.corpus_id,
        "inference": {
            "layer": 2,
            "neighbours": 0,
            "centre": True,
            "components": None,
            "whiten": 0.0,
            "expression": 0,
        },
    }


def test_a_layer_is_handed_to_the_encoder(corpus):
    plain, second = (
        run(corpus).embeddings,
        run(corpus, inference=InferenceConfig(layer=1)).embeddings,
    )
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


def test_a_run_is_embedded_into_a_file(corpus, tmp_path):
    run_folder = write_run(tmp_path / "run", corpus)
    outcome = embed_checkpoint(run_folder, corpus.root, tmp_path / "e.h5ad", device="cpu")
    found = read_embeddings(tmp_path / "e.h5ad")
    assert found.digest() == outcome.embeddings.digest()
    assert found.width == 16
    assert found.provenance["steps"] == 4
    assert found.provenance["corpus_id"] == corpus.document.corpus_id
    assert found.provenance["trained_on"] == "9" * 64
    assert len(found.provenance["checkpoint"]) == 64
    text = str(dict(found.provenance))
    assert str(tmp_path) not in text


def test_untrained_takes_the_weights_before_the_first_step(corpus, tmp_path):
    run_folder = write_run(tmp_path / "run", corpus)
    made = [
        embed_checkpoint(
            run_folder,
            corpus.root,
            tmp_path / f"{untrained}.parquet",
            untrained=untrained,
            device="cpu",
        ).embeddings
        for untrained in (True, False)
    ]
    assert [vectors.provenance["steps"] for vectors in made] == [0, 4]
    assert made[0].digest() != made[1].digest()


def test_genes_meet_the_model_by_name_not_by_number(corpus, tmp_path):
    plain = write_run(tmp_path / "plain", corpus)
    shuffled = list(np.random.default_rng(0).permutation(len(corpus.genes)))
    turned = write_run(tmp_path / "turned", corpus, order=shuffled)
    first, second = (
        embed_checkpoint(run, corpus.root, run / "e.parquet", device="cpu").embeddings
        for run in (plain, turned)
    )
    for slug, part in first.slices.items():
        np.testing.assert_allclose(second.slices[slug].matrix, part.matrix, atol=1e-5)


def test_the_encoder_does_not_depend_on_the_batch(corpus, tmp_path):
    run_folder = write_run(tmp_path / "run", corpus)
    first, second = (
        embed_checkpoint(
            run_folder, corpus.root, tmp_path / "e.parquet", batch=batch, device="cpu"
        ).embeddings
        for batch in (1, 13)
    )
    for slug, part in first.slices.items():
        np.testing.assert_allclose(second.slices[slug].matrix, part.matrix, atol=1e-5)


def test_genes_unknown_to_the_model_are_named(corpus, tmp_path):
    run_folder = write_run(tmp_path / "run", corpus, genes=list(corpus.genes)[2:])
    with pytest.raises(BadInputError, match=r"2 of 24 genes are unknown.*GENE0000, GENE0001"):
        embed_checkpoint(run_folder, corpus.root, tmp_path / "e.h5ad", device="cpu")
    assert not (tmp_path / "e.h5ad").exists()


def test_a_layer_beyond_the_model_is_a_usage_error(corpus, tmp_path):
    run_folder = write_run(tmp_path / "run", corpus)
    with pytest.raises(BadUsageError, match="the encoder has 0 to 2"):
        embed_checkpoint(
            run_folder, corpus.root, tmp_path / "e.h5ad", inference={"layer": 3}, device="cpu"
        )
    bare = embed_checkpoint(
        run_folder, corpus.root, tmp_path / "e.h5ad", inference={"layer": 0}, device="cpu"
    )
    assert bare.embeddings.provenance["inference"]["layer"] == 0


def test_a_wrong_suffix_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(BadUsageError, match=r"not '\.npz'"):
        embed_checkpoint(tmp_path / "no", tmp_path / "no", tmp_path / "e.npz")


def test_a_folder_without_checkpoints_is_bad_input(corpus, tmp_path):
    with pytest.raises(BadInputError, match="no checkpoint"):
        embed_checkpoint(tmp_path, corpus.root, tmp_path / "e.h5ad")


def test_nothing_but_its_own_vectors_is_written_over(corpus, tmp_path):
    first, second = (write_run(tmp_path / name, corpus) for name in ("one", "two"))
    out = tmp_path / "v.parquet"
    embed_checkpoint(first, corpus.root, out)
    made = out.read_bytes()
    embed_checkpoint(first, corpus.root, out)
    assert out.read_bytes() == made
    with pytest.raises(ConflictError, match=r"V10.*checkpoint was .* pass --replace"):
        embed_checkpoint(first, corpus.root, out, untrained=True)
    with pytest.raises(ConflictError, match=r"inference\.neighbours was 0, is now 3"):
        embed_checkpoint(second, corpus.root, out, inference={"neighbours": 3})
    assert out.read_bytes() == made
    embed_checkpoint(first, corpus.root, out, untrained=True, replace_others=True)
    assert out.read_bytes() != made
    out.write_bytes(b"PAR1 somebody's table PAR1")
    for replaced in (False, True):
        with pytest.raises(ConflictError, match="no vectors that sttrain wrote"):
            embed_checkpoint(first, corpus.root, out, replace_others=replaced)
    genes = corpus.root / "genes.parquet"
    with pytest.raises(BadUsageError, match=r"B102"):
        embed_checkpoint(first, corpus.root, genes, replace_others=True)
