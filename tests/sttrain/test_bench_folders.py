"""Suites that share a folder, and what of a suite no data set can give."""

from dataclasses import replace

import numpy as np
import pytest

from sttrain.bench.inputs import parse_given
from sttrain.bench.run import run_suite
from sttrain.bench.suite import read_suite
from sttrain.embed.splits import TRAIN, read_split
from sttrain.errors import BadInputError
from tests.corpora import write_corpus
from tests.sttrain.judged import write_vectors

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


PROBE = """
[probe]
splits = ["paper20@1", "block20@1"]
heads = ["knn"]
seeds = 1
k = 3
"""


def change_folds(monkeypatch, change):
    """Let the folds of block20@1 be others."""

    def changed(corpus, data, name, n_seeds):
        split = read_split(corpus, data, name, n_seeds)
        return change(split) if name == "block20@1" else split

    for place in ("sttrain.bench.run", "sttrain.judge.probes"):
        monkeypatch.setattr(f"{place}.read_split", changed)


def test_a_split_on_which_nothing_can_be_judged_is_skipped_on_request(bench, monkeypatch):
    def without_test(split):
        codes = np.full_like(split.folds[0].codes, TRAIN)
        return replace(split, folds=(replace(split.folds[0], codes=codes),))

    change_folds(monkeypatch, without_test)
    with pytest.raises(
        BadInputError, match=r"V07.*block20@1.*or leave it out here: --skip-missing"
    ):
        bench(PROBE)
    outcome = bench(PROBE, skip_missing=True)
    assert {row.split for row in outcome.rows} == {"paper20@1"}
    assert outcome.skipped == ("data set 'one', split 'block20@1': no spot to judge (seeds 0)",)
    outcome = bench(PROBE.replace("k = 3", "k = 900"), skip_missing=True)
    assert outcome.rows == []
    assert len(outcome.skipped) == 3


def test_groups_that_are_not_held_out_are_told(bench, monkeypatch):
    change_folds(monkeypatch, lambda split: replace(split, unknown_groups=("C",)))
    (line,) = bench(PROBE).skipped
    assert line.startswith("data set 'one', split 'block20@1': 'C', none of whose classes is known")


def test_reductions_of_vectors_that_are_no_wider_are_told(bench, corpus, tmp_path):
    file = write_vectors(corpus, tmp_path / "e.parquet")
    suite = (
        SUITE.replace("[[data]]", 'embeddings = ["ours"]\n[[data]]') + PROBE + "reduce = [2, 64]"
    )
    outcome = bench(suite, "r", f"ours={file.path}")
    assert {row.method for row in outcome.rows} == {"pca6", "ours", "ours-pca2"}
    assert outcome.skipped == ("data set 'one', reduction 'ours-pca64': the vectors are no wider",)
