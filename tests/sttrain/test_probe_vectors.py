"""Files of vectors that are judged: what they are known by, and what goes with them."""

from pathlib import Path

import numpy as np
import pytest

from sttrain.embed.embeddings import Embeddings, SliceEmbedding, write_embeddings
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.embed.splits import assemble_split
from sttrain.errors import BadInputError, BadUsageError, ConflictError
from sttrain.judge.candidates import EmbeddingFile, parse_embedding
from tests.corpora import write_corpus
from tests.sttrain.judged import QUICK, probe, write_vectors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "eval", kind="cover", n_slices=2)


def test_an_embedding_file_is_judged_and_its_checkpoint_is_named(corpus, tmp_path):
    corpus_id = corpus.document.corpus_id
    file = write_vectors(corpus, tmp_path / "e.h5ad", corpus_id=corpus_id, checkpoint="f" * 64)
    rows = probe(corpus, tmp_path / "r", embeddings=[file]).rows
    assert {(r.method, r.source, r.checkpoint) for r in rows} == {("ours", "embedding", "f" * 64)}


def test_the_same_vectors_in_another_file_are_not_judged_again(corpus, tmp_path):
    first = write_vectors(corpus, tmp_path / "e.h5ad")
    second = write_vectors(corpus, tmp_path / "e.parquet")
    probe(corpus, tmp_path / "r", embeddings=[first])
    assert probe(corpus, tmp_path / "r", embeddings=[second]).n_computed == 0


def test_other_vectors_under_a_stored_name_are_refused_or_replace_it(corpus, tmp_path):
    probe(corpus, tmp_path / "r", "raw", embeddings=[write_vectors(corpus, tmp_path / "a.h5ad")])
    other = write_vectors(corpus, tmp_path / "b.h5ad", seed=1)
    with pytest.raises(ConflictError, match=r"'ours': .* are of other .*ours_\*\.parquet"):
        probe(corpus, tmp_path / "r", embeddings=[other])
    with pytest.raises(ConflictError, match="drop the stored results: --replace"):
        probe(corpus, tmp_path / "r", embeddings=[other], replace=False)
    replaced = probe(corpus, tmp_path / "r", embeddings=[other], replace=True)
    assert replaced.n_computed == 4
    assert len({r.source_digest for r in replaced.rows if r.method == "ours"}) == 1
    assert len({r.job for r in replaced.rows if r.method == "raw"}) == 4


def only_first(corpus, data, name, n_seeds):
    """A split of the corpus, cut down to its first slice."""
    whole = corpus.evaluation_split("paper20@1")
    first = min(whole.barcodes)
    cut = whole.model_copy(
        update={
            "barcodes": {first: whole.barcodes[first]},
            "assignments": tuple(
                a.model_copy(update={"slices": {first: a.slices[first]}}) for a in whole.assignments
            ),
        }
    )
    return assemble_split(cut, data, name=name, digest="e" * 64, n_seeds=n_seeds)


def test_vectors_are_the_same_whichever_slices_a_split_judges(corpus, tmp_path, monkeypatch):
    file = write_vectors(corpus, tmp_path / "e.parquet")
    config = QUICK.model_copy(update={"heads": ("knn",), "seeds": 1, "reduce": (2,)})
    with monkeypatch.context() as patched:
        patched.setattr("sttrain.judge.probes.read_split", only_first)
        narrow = config.model_copy(update={"splits": ("narrow@1",)})
        rows = probe(corpus, tmp_path / "r", embeddings=[file], config=narrow).rows
    assert {row.slice for row in rows} == {None, "toy0"}
    rows = probe(corpus, tmp_path / "r", embeddings=[file], config=config).rows
    assert len({(row.method, row.source_digest) for row in rows}) == 2


def test_vectors_of_another_corpus_are_refused(corpus, tmp_path):
    file = write_vectors(corpus, tmp_path / "e.h5ad", corpus_id="0" * 64)
    with pytest.raises(ConflictError, match="made from corpus 000000000000"):
        probe(corpus, tmp_path / "r", embeddings=[file])


def test_problems_of_all_embeddings_are_listed_together(corpus, tmp_path):
    data = read_evaluation_set(corpus)
    for name, cut in (("a", 2), ("b", 5)):
        slices = {
            slug: SliceEmbedding(
                barcodes=data.barcodes(slug)[cut:],
                matrix=np.zeros((whole.meta.n_spots - cut, 2), np.float32),
            )
            for slug, whole in data.slices.items()
        }
        write_embeddings(tmp_path / f"{name}.parquet", Embeddings(slices=slices, provenance={}))
    files = [EmbeddingFile(name=n, path=tmp_path / f"{n}.parquet") for n in "ab"]
    with pytest.raises(BadInputError) as caught:
        probe(corpus, tmp_path / "r", embeddings=files)
    assert len(caught.value.problems) == 4
    assert not (tmp_path / "r").exists()


def test_a_name_given_twice_is_refused(corpus, tmp_path):
    file = EmbeddingFile(name="ours", path=tmp_path / "e.h5ad")
    with pytest.raises(BadUsageError, match="ours given more than once"):
        probe(corpus, tmp_path / "r", embeddings=[file, file])


@pytest.mark.parametrize(
    ("text", "name", "path", "key"),
    [
        ("ours=emb.h5ad", "ours", "emb.h5ad", None),
        ("graph-st=a/b.h5ad:GraphST", "graph-st", "a/b.h5ad", "GraphST"),
        ("x=a=b.parquet", "x", "a=b.parquet", None),
        ("x=C:/a.h5ad", "x", "C:/a.h5ad", None),
    ],
)
def test_parse_embedding_reads_name_file_and_key(text, name, path, key):
    assert parse_embedding(text) == EmbeddingFile(name=name, path=Path(path), key=key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("emb.h5ad", "NAME=FILE was expected"),
        ("=emb.h5ad", "NAME=FILE was expected"),
        ("ours=", "NAME=FILE was expected"),
        ("<script>=e.h5ad", "NAME=FILE was expected"),
        ("../x=e.h5ad", "NAME=FILE was expected"),
        ("raw=e.h5ad", "is the name of a baseline"),
        ("ours=e.npz", r"\.h5ad or \.parquet"),
    ],
)
def test_parse_embedding_refuses_other_forms(text, words):
    with pytest.raises(BadUsageError, match=words):
        parse_embedding(text)


def test_embeddings_are_judged_by_their_components_too(corpus, tmp_path):
    data = read_evaluation_set(corpus)
    rng = np.random.default_rng(0)
    slices = {
        slug: SliceEmbedding(
            barcodes=data.barcodes(slug),
            matrix=rng.normal(size=(whole.meta.n_spots, 12)).astype(np.float32),
        )
        for slug, whole in data.slices.items()
    }
    write_embeddings(tmp_path / "e.parquet", Embeddings(slices=slices, provenance={}))
    file = EmbeddingFile(name="ours", path=tmp_path / "e.parquet")
    config = QUICK.model_copy(update={"heads": ("knn",), "reduce": (3, 50)})
    outcome = probe(corpus, tmp_path / "r", "raw", embeddings=[file], config=config)
    assert {r.method for r in outcome.rows} == {"raw", "ours", "ours-pca3"}
    assert outcome.needless == ("ours-pca50",)
    assert {r.source for r in outcome.rows if r.method == "ours-pca3"} == {"embedding"}
    again = EmbeddingFile(name="ours-pca3", path=tmp_path / "e.parquet")
    with pytest.raises(BadUsageError, match="ours-pca3 given more than once"):
        probe(corpus, tmp_path / "r2", embeddings=[file, again], config=config)


def test_reductions_of_other_vectors_go_with_them(corpus, tmp_path):
    config = QUICK.model_copy(update={"heads": ("knn",), "seeds": 1})
    reduced = config.model_copy(update={"reduce": (2,)})
    files = [write_vectors(corpus, tmp_path / f"{seed}.parquet", seed) for seed in (0, 1)]
    probe(corpus, tmp_path / "r", embeddings=files[:1], config=reduced)
    probe(corpus, tmp_path / "r", embeddings=files[:1], config=config)
    with pytest.raises(ConflictError) as caught:
        probe(corpus, tmp_path / "r", embeddings=files[1:], config=config)
    assert [p.subject for p in caught.value.problems] == ["method 'ours'", "method 'ours-pca2'"]
    left = probe(corpus, tmp_path / "r", embeddings=files[1:], config=config, replace=True).rows
    assert {row.method for row in left} == {"ours"}
    again = probe(corpus, tmp_path / "r", embeddings=files[1:], config=reduced)
    assert (again.n_computed, again.n_reused) == (1, 1)
