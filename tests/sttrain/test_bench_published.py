"""Published models in a suite: run here from weights, or by vectors that somebody made."""

import pytest

from sttrain.adapters.published import PublishedConfig, Request, embed_published
from sttrain.bench.inputs import parse_given
from sttrain.bench.run import run_suite
from sttrain.bench.suite import read_suite
from sttrain.errors import BadUsageError, ConflictError
from tests.corpora import write_corpus
from tests.sttrain.published import write_folder

SUITE = """
name = "others"
title = "published models"
published = ["scgpt"]
embeddings = ["stofm"]
[[data]]
name = "one"
[probe]
splits = ["paper20@1"]
heads = ["knn"]
seeds = 1
[cluster]
algorithms = ["kmeans"]
numbers = ["true"]
seeds = 1
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=8, cols=8, window=4, n_genes=24)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, corpus):
    return write_folder(tmp_path_factory.mktemp("w") / "scgpt", list(corpus.genes))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, corpus, weights):
    path = tmp_path_factory.mktemp("v") / "vectors.parquet"
    embed_published("scgpt", corpus.root, path, Request(config=PublishedConfig(), weights=weights))
    return path


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "others.toml"
    path.write_text(SUITE)
    return path


def bench(path, corpus, weights=(), embeddings=(), **options):
    given = parse_given([f"one={corpus.root}"], [], weights, embeddings)
    return run_suite(
        read_suite(path), path.parent / "r", given=given, beside=path.parent, **options
    )


def test_weights_and_files_give_the_same_rows(suite_file, corpus, weights, vectors):
    outcome = bench(suite_file, corpus, [f"scgpt={weights}"], [f"one/stofm={vectors}"])
    scores = {
        method: [(r.task, r.seed, r.slice, r.accuracy, r.ari)
                 for r in outcome.rows if r.method == method]
        for method in ("scgpt", "stofm")
    }  # fmt: skip
    assert scores["scgpt"] == scores["stofm"]
    assert {row.task for row in outcome.rows} == {"domain-detection@1", "clustering@1"}
    assert len({row.source_digest for row in outcome.rows}) == 1
    assert outcome.skipped == ()


def test_what_is_not_given_is_named_with_both_ways_to_give_it(suite_file, corpus, vectors):
    with pytest.raises(BadUsageError, match=r"--weights scgpt=DIR or --embedding") as caught:
        bench(suite_file, corpus)
    assert {problem.subject for problem in caught.value.problems} == {
        "vectors of 'scgpt' on 'one'", "vectors of 'stofm' on 'one'",
    }  # fmt: skip
    outcome = bench(suite_file, corpus, (), [f"stofm={vectors}"], skip_missing=True)
    assert {row.method for row in outcome.rows} == {"stofm"}
    assert len(outcome.skipped) == 1


def test_other_weights_are_embedded_anew_and_refused_under_the_name(
    suite_file, corpus, weights, tmp_path
):
    bench(suite_file, corpus, [f"scgpt={weights}"], skip_missing=True)
    # Published without a third of the genes: other vectors.
    other = write_folder(tmp_path / "scgpt", list(corpus.genes)[:16])
    with pytest.raises(ConflictError, match="'scgpt'"):
        bench(suite_file, corpus, [f"scgpt={other}"], skip_missing=True)
    assert len(list((suite_file.parent / "r" / "vectors").iterdir())) == 2
