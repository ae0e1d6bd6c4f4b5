import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import adjusted_rand_score, f1_score

from sttrain.bench.score import COLUMNS, score_file
from sttrain.cli import cli
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.errors import BadInputError, BadUsageError, IntegrityError
from sttrain.judge.probe_config import ProbeConfig
from sttrain.judge.probes import probe_corpus
from sttrain.judge.results import open_store
from tests.corpora import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "eval", kind="cover", n_slices=2)


@pytest.fixture(scope="module")
def truth(corpus):
    """Rows that say of every judged spot of `paper20@1` and `block20@1` what it is."""
    data = read_evaluation_set(corpus)
    rows = []
    for name in ("paper20@1", "block20@1"):
        document = corpus.evaluation_split(name)
        for assignment in document.assignments:
            for slug, codes in assignment.slices.items():
                spots = zip(document.barcodes[slug], codes, data.label_names(slug), strict=True)
                rows += [(slug, barcode, name, assignment.seed, label)
                         for barcode, code, label in spots if code == "E"]  # fmt: skip
    return rows


def write(path, rows):
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), path)
    return path


def with_label(row, label):
    return (*row[:4], label)


def test_true_labels_score_one_in_any_order_of_rows(corpus, truth, tmp_path):
    order = np.random.default_rng(0).permutation(len(truth))
    rows = score_file(write(tmp_path / "p.parquet", [truth[i] for i in order]), corpus.root)
    assert {(row.split, row.seed) for row in rows} == {
        (split, seed) for split in ("paper20@1", "block20@1") for seed in range(3)
    }
    assert {row.accuracy for row in rows} == {1.0}
    assert {row.corpus_id for row in rows} == {corpus.document.corpus_id}


def test_scores_are_those_of_an_independent_library(corpus, truth, tmp_path):
    labels = sorted({row[4] for row in truth})
    drawn = np.random.default_rng(1).integers(0, len(labels), len(truth))
    said = [labels[i] for i in drawn.tolist()]
    rows = score_file(
        write(tmp_path / "p.parquet", [with_label(r, s) for r, s in zip(truth, said, strict=True)]),
        corpus.root,
    )
    for row in rows:
        mine = [
            (r[4], s)
            for r, s in zip(truth, said, strict=True)
            if r[2:4] == (row.split, row.seed) and row.slice in (None, r[0])
        ]
        true, predicted = zip(*mine, strict=True)
        assert row.n_test == len(mine)
        assert row.accuracy == pytest.approx(np.mean(np.array(true) == np.array(predicted)))
        assert row.ari_pred == pytest.approx(adjusted_rand_score(true, predicted))
        present = sorted(set(true))
        f1 = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
        assert row.macro_f1 == pytest.approx(f1)


def test_a_probe_that_is_submitted_gets_the_scores_it_had(corpus, tmp_path):
    config = ProbeConfig(splits=("paper20@1",), heads=("knn",))
    outcome = probe_corpus(corpus.root, tmp_path / "r", methods=["raw"], config=config)
    store = open_store(tmp_path / "r")
    rows = []
    for row in (r for r in outcome.rows if r.slice is None):
        for part in store.predictions(row):
            spots = zip(store.spots(part.slice).barcodes, part.codes, part.predicted, strict=True)
            rows += [(part.slice, b, row.split, row.seed, p) for b, code, p in spots if code == "E"]
    scored = score_file(write(tmp_path / "p.parquet", rows), corpus.root)
    fields = ("split", "seed", "slice", "n_train", "n_test", "accuracy", "ari_pred", "macro_f1")
    listed = [{tuple(getattr(r, f) for f in fields) for r in found}
              for found in (outcome.rows, scored)]  # fmt: skip
    assert listed[0] == listed[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[2:], "2 judged spots missing"),
        (lambda rows: [*rows, *rows[:3]], "3 rows that stand twice"),
        (lambda rows: [*rows, ("toy0", "nowhere", *rows[0][2:])], "1 rows of spots that are not"),
        (lambda rows: [with_label(rows[0], None), *rows[1:]], "1 rows without a class"),
        (lambda rows: [with_label(rows[0], "moon"), *rows[1:]], "1 rows of classes .*moon"),
        (lambda rows: [*rows, (*rows[0][:3], 7, rows[0][4])], r"1 seeds that are not expected \(7"),
        (lambda rows: [r for r in rows if r[3] != 1], "seed 1: .* judged spots missing"),
        (lambda rows: [*rows, (*rows[0][:3], -1, rows[0][4])], "1 rows without a split or"),
        (lambda rows: rows[:0] + [(*r[:4], float("nan")) for r in rows], "rows without a class"),
    ],
)
def test_what_does_not_fit_is_refused_with_counts(corpus, truth, tmp_path, change, said):
    with pytest.raises(BadInputError, match=said):
        score_file(write(tmp_path / "p.parquet", change(truth)), corpus.root)


def test_all_problems_are_listed_at_once(corpus, truth, tmp_path):
    rows = [with_label(truth[1], "moon"), *truth[2:], truth[5]]
    with pytest.raises(BadInputError) as caught:
        score_file(write(tmp_path / "p.parquet", rows), corpus.root)
    assert len(caught.value.problems) == 3


def test_other_splits_files_and_names_are_refused(corpus, truth, tmp_path):
    odd = [(*row[:2], "papr20@1", *row[3:]) for row in truth]
    with pytest.raises(BadUsageError, match="did you mean 'paper20@1'"):
        score_file(write(tmp_path / "p.parquet", odd), corpus.root)
    with pytest.raises(BadUsageError, match=r"not '\.pt'"):
        score_file(tmp_path / "p.pt", corpus.root)
    for name in ("../up", "<b>", "raw"):
        with pytest.raises(BadUsageError, match="lower-case letters"):
            score_file(tmp_path / "p.parquet", corpus.root, name=name)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match="unreadable"):
        score_file(tmp_path / "bad.parquet", corpus.root)
    pq.write_table(pa.table({"slice": ["a"]}), tmp_path / "few.parquet")
    with pytest.raises(BadInputError, match="barcode, split, seed, predicted"):
        score_file(tmp_path / "few.parquet", corpus.root)


def test_the_command_reads_csv_and_takes_the_name_of_the_file(corpus, truth, tmp_path):
    path = tmp_path / "My <b>Model.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row for row in truth if row[3] == 0)
    done = CliRunner().invoke(
        cli, ["bench", "score", str(path), str(corpus.root), "--seeds", "1", "--json",
              "-o", str(tmp_path / "out")],
        catch_exceptions=False,
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert {entry["method"] for entry in facts["table"]} == {"my-b-model"}
    assert {entry["accuracy"] for entry in facts["table"]} == {1.0}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "my-b-model-scores.csv", "my-b-model-scores.parquet",
    ]  # fmt: skip
