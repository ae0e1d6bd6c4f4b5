"""Suites that share a folder, and what of a suite no data set can give."""

import pytest

from sttrain.bench.inputs import parse_given
from sttrain.bench.run import run_suite
from sttrain.bench.suite import read_suite
from tests.corpora import write_corpus

SUITE = """
name = "toy"
title = "a toy"
methods = ["pca6"]
[[data]]
name = "one"
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=10, cols=10)


@pytest.fixture
def bench(corpus, tmp_path):
    """Run a suite, of which only the tasks are given, in a folder of this test."""

    def run(text, out="r", *embeddings, **options):
        path = tmp_path / "toy.toml"
        path.write_text(text if "title" in text else SUITE + text)
        given = parse_given([f"one={corpus.root}"], [], [], embeddings)
        return run_suite(read_suite(path), tmp_path / out, given=given, beside=tmp_path, **options)

    return run


@pytest.mark.parametrize(
    ("task", "setting", "values"),
    [
        ('cluster]\nalgorithms = ["kmeans"]\nnumbers = ["true"]\nseeds = 1', "dims", (2, 6)),
        ("reconstruct]\nwindows = [8]\nsizes = [3]\nrepeats = 1", "genes", (4, 6)),
        ('probe]\nsplits = ["paper20@1"]\nheads = ["knn"]\nseeds = 1', "k", (3, 5)),
    ],
    ids=["cluster", "reconstruct", "probe"],
)
def test_what_other_suites_left_in_the_folder_changes_no_row(bench, task, setting, values):
    first, second = (f"[{task}\n{setting} = {value}\n" for value in values)
    alone = bench(second, "alone")
    bench(first)
    jobs = [{row.job for row in outcome.rows} for outcome in (alone, bench(second))]
    assert jobs[0] == jobs[1]
