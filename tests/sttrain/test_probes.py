import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stbuild.corpus.split_documents import SplitAssignment
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.embed.splits import TRAIN, assemble_split, read_split
from sttrain.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    IntegrityError,
    ResourceError,
)
from sttrain.judge.methods import pack
from sttrain.judge.metrics import score_predictions
from sttrain.judge.probe_config import HEADS, ProbeConfig
from sttrain.judge.report import build_report, write_report
from sttrain.judge.results import open_store
from sttrain.judge.rows import RowTable
from tests.corpora import write_corpus
from tests.sttrain.judged import QUICK, probe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "eval", kind="cover", n_slices=2)


def stored_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.*"))}


def test_one_row_per_method_head_split_seed_and_slice(corpus, tmp_path):
    outcome = probe(corpus, tmp_path / "r", "raw", "majority", config=QUICK)
    found = {(r.method, r.head, r.split, r.seed, r.slice) for r in outcome.rows}
    assert found == {
        (method, head, "paper20@1", seed, slug)
        for method in ("raw", "majority")
        for head in ("kNN (k=10)", "MLP (2 epochs)")
        for seed in (0, 1)
        for slug in (None, "toy0", "toy1")
    }
    assert len(outcome.rows) == len(found)
    assert outcome.n_computed == 8
    row = next(r for r in outcome.rows if (r.method, r.head) == ("raw", "MLP (2 epochs)"))
    assert row.corpus_id == corpus.document.corpus_id
    assert row.epochs == 2
    assert json.loads(row.settings)["hidden"] == [512, 256, 128]
    assert set(json.loads(row.versions)) == {
        "sttrain", "python", "numpy", "scipy", "scikit-learn", "torch"
    }  # fmt: skip


def test_scores_are_those_of_the_stored_predictions(corpus, tmp_path):
    outcome = probe(corpus, tmp_path / "r", "nbmean6-pca10")
    store = open_store(tmp_path / "r")
    data = read_evaluation_set(corpus)
    split = read_split(corpus, data, "paper20@1", 2)
    for row in outcome.rows:
        parts = {p.slice: p for p in store.predictions(row)}
        predicted = [n for slug in split.slugs for n in parts[slug].predicted]
        codes = np.asarray([data.labels.index(name) for name in predicted], np.int16)
        chosen = split.folds[row.seed].test.copy()
        if row.slice is not None:
            outside = np.ones(chosen.size, bool)
            outside[split.spots_of(row.slice)] = False
            chosen[outside] = False
        scores = score_predictions(split.labels[chosen], codes[chosen])
        assert row.n_test == chosen.sum()
        assert row.accuracy == scores.accuracy
        assert row.ari_pred == scores.ari_pred
        assert row.macro_f1 == scores.macro_f1


def test_one_classifier_serves_all_slices(corpus, tmp_path):
    rows = probe(corpus, tmp_path / "r", "pca10").rows
    pooled = next(r for r in rows if r.slice is None)
    parts = [r for r in rows if r.slice and (r.head, r.seed) == (pooled.head, pooled.seed)]
    assert pooled.n_train == sum(r.n_train for r in parts)
    right = sum(r.accuracy * r.n_test for r in parts)
    assert pooled.accuracy == pytest.approx(right / pooled.n_test)


def test_a_rerun_computes_only_what_is_missing(corpus, tmp_path, monkeypatch):
    whole = probe(corpus, tmp_path / "whole", "raw", "coords").rows
    first = probe(corpus, tmp_path / "r", "raw", config=QUICK.model_copy(update={"seeds": 1}))
    assert (first.n_computed, first.n_reused) == (2, 0)
    second = probe(corpus, tmp_path / "r", "raw", "coords")
    assert (second.n_computed, second.n_reused) == (6, 2)
    assert second.rows == whole

    def refuse(*_arguments):
        raise AssertionError

    monkeypatch.setattr("sttrain.judge.baselines.Control.compute", refuse)
    monkeypatch.setattr("sttrain.judge.rows.write_durable", refuse)
    third = probe(corpus, tmp_path / "r", "raw", "coords")
    assert (third.n_computed, third.n_reused) == (0, 8)


def test_an_interrupted_run_keeps_what_it_finished(corpus, tmp_path):
    seen = []

    def stop(done, _total, _what):
        seen.append(done)
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(corpus, tmp_path / "r", "raw", progress=stop)
    assert 0 < seen[-1] < 4
    assert len(open_store(tmp_path / "r").finished()) == seen[-1]
    assert probe(corpus, tmp_path / "r", "raw").n_reused == seen[-1]
    assert stored_bytes(tmp_path / "r") == stored_bytes_of(corpus, tmp_path)


def stored_bytes_of(corpus, tmp_path):
    probe(corpus, tmp_path / "fresh", "raw")
    return stored_bytes(tmp_path / "fresh")


def test_workers_change_no_byte(corpus, tmp_path):
    before = torch.get_num_threads()
    for workers in (1, 3):
        probe(corpus, tmp_path / str(workers), "pca10", "coords", workers=workers)
    assert stored_bytes(tmp_path / "1") == stored_bytes(tmp_path / "3")
    assert torch.get_num_threads() == before


def test_other_epochs_are_other_rows(corpus, tmp_path):
    probe(corpus, tmp_path / "r", "raw")
    more = probe(corpus, tmp_path / "r", "raw", config=QUICK.model_copy(update={"mlp_epochs": 3}))
    assert more.n_computed == 2
    assert {r.head for r in more.rows} == {"kNN (k=10)", "MLP (2 epochs)", "MLP (3 epochs)"}


def test_predictions_that_are_gone_are_computed_again(corpus, tmp_path):
    probe(corpus, tmp_path / "r", "raw")
    next((tmp_path / "r" / "predictions").iterdir()).unlink()
    assert probe(corpus, tmp_path / "r", "raw").n_computed == 1


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_table_of_what_is_left_is_never_written(corpus, tmp_path, monkeypatch, when):
    out, real = tmp_path / "r", RowTable.rows

    def take_away() -> None:
        min((out / "jobs").glob("*.parquet")).unlink()

    def read(table):
        if when == "while":
            take_away()
        return real(table)

    probe(corpus, out, "raw")
    for path in out.glob("results.[cp]*"):
        path.unlink()
    store = open_store(out)
    jobs = store.finished()
    if when == "before":
        take_away()
    monkeypatch.setattr(RowTable, "rows", read)
    with pytest.raises(ResourceError, match=r"P05.*1 results that were written are gone"):
        store.summarise(jobs)
    assert not list(out.glob("results.[cp]*"))


def test_all_rows_stand_in_one_table_too(corpus, tmp_path):
    rows = probe(corpus, tmp_path / "r", "raw").rows
    table = pq.read_table(tmp_path / "r" / "results.parquet")
    assert table.num_rows == len(rows)
    assert table.column("accuracy").to_pylist() == [r.accuracy for r in rows]
    lines = (tmp_path / "r" / "results.csv").read_text().splitlines()
    assert len(lines) == len(rows) + 1


def test_results_of_another_corpus_are_refused(corpus, tmp_path):
    other = write_corpus(tmp_path / "other", kind="cover", n_slices=1, seed=5)
    probe(corpus, tmp_path / "r", "majority")
    with pytest.raises(ConflictError, match="it holds results of corpus 'toy'"):
        probe(other, tmp_path / "r", "majority")


def test_rows_of_another_corpus_among_the_files_are_refused(corpus, tmp_path):
    other = write_corpus(tmp_path / "other", kind="cover", n_slices=1, seed=5)
    probe(corpus, tmp_path / "a", "majority")
    probe(other, tmp_path / "b", "majority")
    for path in (tmp_path / "b" / "jobs").iterdir():
        (tmp_path / "a" / "jobs" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BadInputError, match="keep the results of each corpus in a folder"):
        open_store(tmp_path / "a").rows()


def test_a_folder_of_something_else_is_left_alone(corpus, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("mine")
    with pytest.raises(ConflictError, match=r"V10.*no results .first: "):
        probe(corpus, tmp_path / "r", "raw")
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def test_all_unknown_methods_are_named_at_once(corpus, tmp_path):
    with pytest.raises(BadUsageError) as caught:
        probe(corpus, tmp_path / "r", "rwa", "raw", "scgtp")
    assert [p.subject for p in caught.value.problems] == ["method 'rwa'", "method 'scgtp'"]


def test_nothing_to_judge_is_a_usage_error(corpus, tmp_path):
    with pytest.raises(BadUsageError, match="nothing to judge"):
        probe(corpus, tmp_path / "r")


def test_fewer_training_spots_than_neighbours_are_refused(corpus, tmp_path):
    config = QUICK.model_copy(update={"k": 900})
    with pytest.raises(BadInputError, match="training spots, at least 900 are needed"):
        probe(corpus, tmp_path / "r", "raw", config=config)


def test_an_unlabelled_corpus_has_no_split(tmp_path):
    corpus = write_corpus(tmp_path / "c", kind="cover", n_labels=0)
    with pytest.raises(BadUsageError, match="none; it has no labelled slice"):
        probe(corpus, tmp_path / "r", "raw")


def test_a_damaged_row_file_is_named(corpus, tmp_path):
    probe(corpus, tmp_path / "r", "majority")
    path = next((tmp_path / "r" / "jobs").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    store = open_store(tmp_path / "r")
    with pytest.raises(IntegrityError, match=r"damaged since it was written.*remove the file"):
        store.rows()


def hold_out(corpus, data, name, n_seeds):
    """A split that holds out one slice after the other, in place of one of the corpus."""
    document = corpus.evaluation_split("paper20@1")
    assignments = [
        SplitAssignment(
            seed=i,
            held_out=slug,
            slices={s: "E" * len(b) if s == slug else "T" * len(b)
                    for s, b in document.barcodes.items()},
        )
        for i, slug in enumerate(sorted(document.barcodes))
    ]  # fmt: skip
    assignments = [
        a.model_copy(
            update={
                "slices": {
                    slug: "".join(
                        code if label >= 0 else "."
                        for code, label in zip(codes, data.slices[slug].labels, strict=True)
                    )
                    for slug, codes in a.slices.items()
                }
            }
        )
        for a in assignments
    ]
    changed = document.model_copy(update={"task": "donor-out", "assignments": tuple(assignments)})
    return assemble_split(changed, data, name=name, digest="d" * 64, n_seeds=n_seeds)


def test_held_out_groups_are_fitted_several_times_where_a_head_draws(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("sttrain.judge.probes.read_split", hold_out)
    config = ProbeConfig(
        splits=("donor-out@1",), heads=("knn", "mlp"), held_out_seeds=3, mlp_epochs=2
    )
    rows = [r for r in probe(corpus, tmp_path / "r", "pca5", config=config).rows if not r.slice]
    found = {(r.head, r.held_out, r.seed, r.repeat) for r in rows}
    groups = [("toy0", 0), ("toy1", 1)]
    assert found == {
        *(("kNN (k=10)", *group, 0) for group in groups),
        *(("MLP (2 epochs)", *group, repeat) for group in groups for repeat in range(3)),
    }
    assert len({r.job for r in rows}) == len(rows)


@pytest.mark.parametrize(("slug", "fold"), [("toy0", 0), ("toy1", 1)])
def test_a_slice_is_mapped_in_the_fold_that_holds_it_out(corpus, tmp_path, monkeypatch, slug, fold):
    monkeypatch.setattr("sttrain.judge.probes.read_split", hold_out)
    config = ProbeConfig(splits=("donor-out@1",), heads=("knn",))
    rows = probe(corpus, tmp_path / "r", "pca5", config=config).rows
    write_report(tmp_path / "r", tmp_path / "out", build_report(rows), st_slice=slug)
    names = [path.name for path in (tmp_path / "out").glob("map_*")]
    assert names == [f"map_{slug}_donor-out@1_knn-k-10_s{fold:03d}.png"]


def test_every_head_is_a_column_of_its_own(corpus, tmp_path):
    config = ProbeConfig(splits=("paper20@1",), heads=HEADS, seeds=1, mlp_epochs=9, mlp_steps=9)
    rows = probe(corpus, tmp_path / "r", "pca5", config=config).rows
    pooled = {r.head: r for r in rows if r.slice is None}
    assert set(pooled) == {
        "kNN (k=10)", "kNN (k=10, per dimension)", "logistic", "logistic (per dimension)",
        "MLP (9 epochs, at most 9 steps)", "MLP (9 epochs, at most 9 steps, per dimension)",
    }  # fmt: skip
    mlp = pooled["MLP (9 epochs, at most 9 steps)"]
    assert mlp.epochs == 9 // -(-mlp.n_train // 32)
    assert pooled["logistic"].converged is True
    assert json.loads(pooled["logistic (per dimension)"].settings)["scaling"] == "each"


def test_fits_that_are_added_later_do_not_depend_on_what_was_stored(corpus, tmp_path):
    """Groups of networks are then other ones."""
    config = QUICK.model_copy(update={"seeds": 3, "heads": ("mlp",)})
    whole = probe(corpus, tmp_path / "whole", "pca5", config=config).rows
    probe(corpus, tmp_path / "r", "pca5", config=config.model_copy(update={"seeds": 1}))
    assert probe(corpus, tmp_path / "r", "pca5", config=config).rows == whole


def test_an_object_of_the_protocol_is_judged_like_a_name(corpus, tmp_path):
    class Ones:
        name, source, checkpoint = "ones", "embedding", "c" * 64

        def identity(self, data):
            return "ones" + data.corpus_id

        def compute(self, data):
            parts = {s: np.ones((w.meta.n_spots, 2), np.float32) for s, w in data.slices.items()}
            return pack(data, parts, {})

    config = QUICK.model_copy(update={"heads": ("logistic",)})
    rows = probe(corpus, tmp_path / "r", Ones(), "majority", config=config).rows
    scores = {name: {r.accuracy for r in rows if r.method == name and not r.slice}
              for name in ("ones", "majority")}  # fmt: skip
    assert scores["ones"] == scores["majority"]
    assert {r.checkpoint for r in rows if r.method == "ones"} == {"c" * 64}


def test_classes_that_no_training_spot_has_are_named(corpus, tmp_path, monkeypatch):
    def without_first(corpus, data, name, n_seeds):
        split = hold_out(corpus, data, name, 1)
        codes = split.folds[0].codes.copy()
        codes[(codes == TRAIN) & (split.labels == 0)] = ord("b")
        return replace(split, folds=(replace(split.folds[0], codes=codes),))

    monkeypatch.setattr("sttrain.judge.probes.read_split", without_first)
    config = ProbeConfig(splits=("donor-out@1",), heads=("knn",))
    rows = probe(corpus, tmp_path / "r", "pca5", config=config).rows
    assert {r.absent for r in rows} == {read_evaluation_set(corpus).labels[0]}
    assert {r.n_classes for r in rows} == {2}
