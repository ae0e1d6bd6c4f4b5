"""What a method saw of the spots it is judged on, whatever the split says."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from sttrain.errors import IntegrityError
from sttrain.judge.candidates import GivenVectors
from sttrain.judge.exposure import find_exposure
from sttrain.judge.methods import Reduced, find_method, pack
from sttrain.judge.probe_config import ProbeConfig
from sttrain.judge.remarks import seen_remarks
from sttrain.judge.results import ResultRow, open_store
from sttrain.judge.rows import read_table, write_parquet
from tests.corpora import write_corpus
from tests.sttrain.judged import make_set, probe, write_vectors
from tests.sttrain.test_probes import hold_out
from tests.sttrain.test_report import ROW


def given(data, **told):
    parts = {s: np.zeros((w.meta.n_spots, 4), np.float32) for s, w in data.slices.items()}
    return GivenVectors(name="ours", vectors=pack(data, parts, told))


@pytest.mark.parametrize(
    ("name", "seen"),
    [("raw", ""), ("coords", ""), ("nbmean6", ""), ("raw-centred", ""), ("pca5", "components"),
     ("nbmean6-pca5", "components"), ("banksy6", "components")],
)  # fmt: skip
def test_controls_see_what_they_are_fitted_on(name, seen):
    assert find_exposure(find_method(name), make_set()) == seen


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ({}, "unknown"),
        ({"trained_on": "9" * 64, "steps": 9}, "unknown"),
        ({"trained_on": "a" * 64, "steps": 9}, "training"),
        ({"trained_on": "b" * 64, "corpus_id": "b" * 64, "steps": 9}, "training"),
        ({"trained_on": "a" * 64, "steps": 0}, ""),
        ({"trained_on": "9" * 64, "steps": 0, "inference": {"expression": 20}}, "components"),
        ({"trained_on": "9" * 64, "inference": {"components": 5}}, "components; unknown"),
        ({"external": {"weights_sha256": None}}, "training"),
        ({"external": {"weights_sha256": "c" * 64}, "checkpoint": "c" * 64}, "unknown"),
        ({"method": "stagate", "epochs": 9}, "training"),
        ({"method": "scgpt", "checkpoint": "c" * 64}, "unknown"),
    ],
)
def test_vectors_have_seen_what_they_tell_of(told, seen):
    assert find_exposure(given(make_set(), **told), make_set()) == seen


class Foreign:
    """An object of the protocol that is none of ours."""

    name, source, checkpoint = "foreign", "embedding", None

    def identity(self, data):
        return data.corpus_id

    def compute(self, data):
        return pack(data, {}, {})


def test_reductions_are_fitted_and_other_objects_tell_nothing():
    data = make_set()
    ours = given(data, trained_on="a" * 64)
    assert find_exposure(Reduced(method=ours, components=2), data) == "components; training"
    assert find_exposure(Foreign(), data) == "unknown"


@pytest.fixture
def donors(tmp_path, monkeypatch):
    """Probes under a split that holds donors out and is not transductive by itself."""
    monkeypatch.setattr(
        "sttrain.judge.probes.read_split",
        lambda *arguments: replace(hold_out(*arguments), transductive=False),
    )
    corpus = write_corpus(tmp_path / "eval", kind="cover", n_slices=2)
    told = {"trained_on": corpus.document.corpus_id, "steps": 4}
    ours = write_vectors(corpus, tmp_path / "ours.h5ad", **told)
    theirs = replace(write_vectors(corpus, tmp_path / "theirs.h5ad", seed=1), name="theirs")
    config = ProbeConfig(splits=("donor-out@1",), heads=("knn",))
    rows = probe(
        corpus, tmp_path / "r", "raw", "pca5", embeddings=[ours, theirs], config=config
    ).rows
    return tmp_path / "r", rows


def test_held_out_donors_that_a_method_has_seen_are_transductive(donors):
    _, rows = donors
    assert {(r.method, r.transductive, r.seen) for r in rows} == {
        ("raw", False, ""),
        ("pca5", True, "components"),
        ("ours", True, "training"),
        ("theirs", False, "unknown"),
    }
    seen, unknown = seen_remarks(rows)
    assert seen.startswith(
        "donor-out@1: transductive for ours (trained on these slices), pca5 (components or scales "
        "fitted on all spots)"
    )
    assert unknown.startswith("donor-out@1: not known of theirs whether")


def test_rows_of_older_versions_are_read_and_tell_what_follows_from_names(donors):
    root, _ = donors
    store = open_store(root)
    for path in store.jobs.root.glob("*.parquet"):
        table = read_table(path, set()).drop_columns(["seen"])
        place = table.column_names.index("transductive")
        before = pa.array([False] * table.num_rows)
        write_parquet(path, table.set_column(place, "transductive", before))
    rows = store.rows()
    assert {row.seen for row in rows} == {None}
    seen, unknown = seen_remarks(rows)
    assert "transductive for pca5 (components" in seen
    assert "not known of ours, theirs whether" in unknown


def test_other_columns_may_not_be_missing(donors):
    root, _ = donors
    path = next(iter(sorted((root / "jobs").glob("*.parquet"))))
    write_parquet(path, read_table(path, set()).drop_columns(["absent"]))
    with pytest.raises(IntegrityError, match="columns missing: absent"):
        open_store(root).rows()


def test_a_transductive_split_is_named_as_a_whole():
    row: ResultRow = replace(ROW, method="ours", source="embedding", seen="unknown")
    held_out = replace(ROW, split="pair-out@1", held_out="p", method="pca5", seen="components")
    raw = replace(held_out, method="raw", seen="", transductive=False)
    lines = list(seen_remarks([row, held_out, raw]))
    assert [line.partition(" - ")[0] for line in lines] == [
        "paper20@1: transductive",
        "pair-out@1: transductive for pca5 (components or scales fitted on all spots)",
    ]
    (line,) = seen_remarks([replace(raw, transductive=True)])
    assert line.startswith("pair-out@1: transductive for raw (as the split says)")
