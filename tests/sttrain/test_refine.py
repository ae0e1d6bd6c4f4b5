"""How features become vectors: neighbours, slice means, components, scale, as a recipe says."""

import numpy as np
import pytest

from sttrain.embed.embeddings import SliceEmbedding
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.embed.refine import refine_corpus, refine_slice
from sttrain.embed.spots import embed_checkpoint
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.methods import find_methods
from sttrain.model.inference import InferenceConfig
from sttrain.model.pretext import Pretext
from sttrain.release.encoder import load_encoder
from sttrain.train.config import RunConfig
from tests.corpora import write_corpus
from tests.sttrain.judged import make_whole, write_run

WHOLE = make_whole()


@pytest.fixture
def features():
    return np.random.default_rng(3).normal(size=(144, 5)).astype(np.float32) + 7


def embedding(matrix):
    names = tuple(f"s{i}" for i in range(len(matrix)))
    return SliceEmbedding(barcodes=names, matrix=matrix, labels=(None,) * len(matrix))


def test_nothing_is_done_by_default(features):
    assert np.array_equal(refine_slice(features, WHOLE, InferenceConfig()), features)
    slices = {"one": embedding(features)}
    assert refine_corpus(slices, InferenceConfig(), "x") == slices


@pytest.mark.parametrize("k", [1, 4, 500])
def test_neighbours_are_averaged_with_the_spot(features, k):
    found = refine_slice(features, WHOLE, InferenceConfig(neighbours=k))
    away = np.linalg.norm(WHOLE.xy[:, None].astype(float) - WHOLE.xy[None], axis=2)
    near = np.argsort(away, axis=1, kind="stable")[:, : k + 1]
    assert np.allclose(found, features[near].mean(axis=1), atol=1e-5)


def test_slices_are_centred(features):
    found = refine_slice(features, WHOLE, InferenceConfig(centre=True))
    assert np.allclose(found, features - features.mean(axis=0), atol=1e-5)


def test_components_are_of_all_slices_together(features):
    parts = {"one": embedding(features[:60]), "two": embedding(features[60:] * [9, 1, 1, 1, 1])}
    found = refine_corpus(parts, InferenceConfig(components=2), "x")
    stacked = np.concatenate([found["one"].matrix, found["two"].matrix])
    assert stacked.shape == (144, 2)
    assert np.allclose(np.cov(stacked.T)[0, 1], 0, atol=1e-4)
    assert found["one"].barcodes == parts["one"].barcodes
    with pytest.raises(BadUsageError, match="6 components of 144 spots and 5 columns"):
        refine_corpus(parts, InferenceConfig(components=6), "x")


def test_whitened_components_have_one_scale_and_constant_ones_stay(features):
    wide = features * [9, 3, 1, 1, 0]
    parts = {"one": embedding(wide[:60]), "two": embedding(wide[60:])}
    plain = refine_corpus(parts, InferenceConfig(components=5), "x")
    white = refine_corpus(parts, InferenceConfig(components=5, whiten=1), "x")
    half = refine_corpus(parts, InferenceConfig(components=5, whiten=0.5), "x")
    stacked = np.concatenate([white["one"].matrix, white["two"].matrix])
    assert np.allclose(np.cov(stacked[:, :4].T, ddof=0), np.eye(4), atol=1e-4)
    for slug in parts:
        shares = white[slug].matrix[:, :4] / plain[slug].matrix[:, :4]
        assert np.allclose(shares, shares[0], rtol=1e-4)
        assert np.abs(white[slug].matrix[:, 4]).max() < 1e-4
        assert np.allclose(
            half[slug].matrix[:, :4] ** 2,
            white[slug].matrix[:, :4] * plain[slug].matrix[:, :4],
            rtol=1e-3,
        )
    with pytest.raises(ValueError, match=r"say how many, inference\.components"):
        InferenceConfig(whiten=1)


def test_expression_stands_beside_the_vectors_at_the_same_scale(features):
    parts = {"one": embedding(features[:60]), "two": embedding(features[60:])}
    beside = {"one": 40 * features[:60, :2] ** 2, "two": 40 * features[60:, :2] ** 2}
    found = refine_corpus(parts, InferenceConfig(components=3), "x", beside)
    alone = refine_corpus(parts, InferenceConfig(components=3), "x")
    for slug in parts:
        assert found[slug].matrix.shape == (len(parts[slug].matrix), 5)
        shares = found[slug].matrix[:, :3] / alone[slug].matrix
        assert np.allclose(shares, shares[0, 0], rtol=1e-4)
    stacked = np.concatenate([part.matrix for part in found.values()])
    assert np.allclose(stacked.mean(axis=0), 0, atol=1e-5)
    assert stacked[:, :3].var(axis=0).sum() == pytest.approx(1, rel=1e-5)
    assert stacked[:, 3:].var(axis=0).sum() == pytest.approx(1, rel=1e-5)


def test_vectors_that_say_nothing_leave_expression_alone():
    same = np.full((9, 2), 3, np.float32)
    same[4, 1] = np.nextafter(np.float32(3), np.float32(4))
    parts = {"one": embedding(same)}
    beside = {"one": np.arange(9, dtype=np.float32)[:, None]}
    found = refine_corpus(parts, InferenceConfig(), "x", beside)["one"].matrix
    assert np.all(found[:, :2] == 0)
    assert np.isfinite(found).all()


def test_expression_is_that_of_the_control_of_this_name(tmp_path):
    corpus = write_corpus(tmp_path / "eval", kind="cover", n_slices=2, draws=2, splits=("test",))
    run, out = write_run(tmp_path / "run", corpus), tmp_path / "e.parquet"
    told = {"neighbours": 4, "components": 2, "expression": 3}
    vectors = embed_checkpoint(run, corpus.root, out, device="cpu", inference=told).embeddings
    (control,) = find_methods(("nbmean4-pca3",))
    expected = control.compute(read_evaluation_set(corpus))
    stacked = np.concatenate([part.matrix[:, 2:] for part in vectors.slices.values()])
    wanted = np.concatenate([part.matrix for part in expected.slices.values()])
    assert vectors.width == 5
    assert vectors.provenance["inference"]["expression"] == 3
    assert np.allclose(stacked * np.sqrt(wanted.var(axis=0).sum()), wanted, atol=1e-3)


def test_small_panels_have_as_many_components_of_expression_as_there_are(tmp_path):
    corpus = write_corpus(tmp_path / "eval", kind="cover", n_slices=1, splits=("test",))
    n_genes = read_evaluation_set(corpus).genes.size
    run, out = write_run(tmp_path / "run", corpus), tmp_path / "e.parquet"
    told = {"components": 2, "expression": 4096}
    assert n_genes < 50
    found = embed_checkpoint(run, corpus.root, out, device="cpu", inference=told)
    assert found.embeddings.width == 2 + n_genes


def test_slices_that_share_no_gene_are_told_how_they_can_be_embedded(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "eval", kind="cover", splits=("test",))
    run, out = write_run(tmp_path / "run", corpus), tmp_path / "e.parquet"
    monkeypatch.setattr("sttrain.embed.evaluation.drawn_genes", lambda _: np.empty(0, np.int32))
    embed_checkpoint(run, corpus.root, tmp_path / "bare.parquet", device="cpu")
    told = {"expression": 3}
    with pytest.raises(BadInputError, match=r"V17.*measured by all slices.*--expression 0"):
        embed_checkpoint(run, corpus.root, out, device="cpu", inference=told)


def test_the_recipe_says_how_and_a_flag_goes_before_it(tmp_path):
    """Of trained and untrained weights alike."""
    corpus = write_corpus(tmp_path / "eval", kind="cover", n_slices=2, draws=2, splits=("test",))
    said = InferenceConfig(neighbours=3, centre=True, components=4)
    run = write_run(tmp_path / "run", corpus, pretext=Pretext(inference=said))
    assert load_encoder(run)[1].pretext.inference == said

    def embed(name, **options):
        out = tmp_path / f"{name}-{options['untrained']}.parquet"
        return embed_checkpoint(run, corpus.root, out, device="cpu", **options).embeddings

    plain = {"neighbours": 0, "centre": False, "components": None, "whiten": 0.0}
    for untrained in (False, True):
        bare = embed("bare", untrained=untrained, inference=plain)
        refined = {}
        for whole in corpus.whole_slices("test"):
            part = bare.slices[whole.meta.slice]
            refined[whole.meta.slice] = embedding(refine_slice(part.matrix, whole, said))
        expected = refine_corpus(refined, said, "x")
        found = embed("said", untrained=untrained)
        for slug, part in found.slices.items():
            assert part.matrix.shape[1] == 4
            assert np.allclose(part.matrix, expected[slug].matrix, atol=1e-4)
        changed = embed("changed", untrained=untrained, inference={"components": 2})
        assert changed.width == 2
        assert changed.provenance["inference"] == said.model_dump() | {"components": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"whiten": 1.0}, "say how many"), ({"neighbours": 1025}, "less than or equal to 1024")],
)
def test_what_a_flag_asks_for_has_to_go_with_the_recipe(tmp_path, changes, message):
    """Whitening without components did nothing, and the file said that it had been done."""
    corpus = write_corpus(tmp_path / "eval", kind="cover", splits=("test",))
    run, out = write_run(tmp_path / "run", corpus), tmp_path / "e.parquet"
    with pytest.raises(BadUsageError, match=message):
        embed_checkpoint(run, corpus.root, out, device="cpu", inference=changes)
    assert not out.exists()


def test_it_decides_no_run_by_default_and_a_layer_has_to_be_there():
    plain = RunConfig()
    told = plain.model_copy(update={"inference": InferenceConfig(neighbours=6)})
    assert told.pretext.inference.neighbours == 6
    assert plain.fingerprint("c") != told.fingerprint("c")
    with pytest.raises(ValueError, match=r"inference\.layer is 7, the encoder has 6"):
        RunConfig.model_validate({"inference": {"layer": 7}})
