import csv
import io
import json
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from click.testing import CliRunner

from sttrain.bench.blocks import difference_rows, report_blocks, table_rows
from sttrain.bench.inputs import parse_given
from sttrain.bench.page import bench_markdown, bench_page, write_bench_report
from sttrain.bench.run import run_suite
from sttrain.bench.suite import read_suite
from sttrain.bench.summary import read_bench, summarise
from sttrain.bench.trends import draw_trends, find_trends
from sttrain.cli import cli
from sttrain.errors import BadInputError, BadUsageError, IntegrityError
from sttrain.judge.rows import read_table, write_parquet
from tests.corpora import write_corpus
from tests.sttrain.judged import write_run

SUITE = """
name = "toy"
title = "<script>alert(1)</script> | a toy"
table = "table1"
printed = "printed.csv"
methods = ["majority", "raw"]
[[data]]
name = "toy"
[[data]]
name = "same-slices"
[[checkpoints]]
name = "ours-16"
what = "any"
untrained = true
[probe]
splits = ["paper20@1"]
heads = ["knn"]
[reconstruct]
windows = [8]
sizes = [3]
genes = 6
repeats = 2
"""
PRINTED = """table,method,row,data,size,head,metric,value,note
table1,ours-16,ours(16),toy,,kNN,accuracy,0.753,it is wrong
table1,raw,raw,same-slices,,kNN,accuracy,0.111,
table1,gone,gone,toy,,kNN,accuracy,0.222,
table2,raw,raw,toy,,kNN,accuracy,0.999,
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A suite that was run on one corpus under two names; the first is that of the corpus."""
    root = tmp_path_factory.mktemp("bench")
    corpus = write_corpus(root / "eval", kind="cover", n_slices=2)
    run = write_run(root / "run", corpus)
    (root / "toy.toml").write_text(SUITE)
    (root / "printed.csv").write_text(PRINTED)
    given = parse_given(
        [f"toy={corpus.root}", f"same-slices={corpus.root}"], [f"ours-16={run}"], [], []
    )
    run_suite(read_suite(root / "toy.toml"), root / "r", given=given, beside=root)
    return root / "r"


@pytest.fixture(scope="module")
def summary(results):
    return summarise(*read_bench(results, "toy"))


def test_cells_are_mean_and_deviation_of_pooled_scores_over_seeds(results, summary):
    _, rows = read_bench(results, "toy")
    pooled = ("toy", "raw", None)
    mine = [r.accuracy or 0.0 for r in rows if (r.data, r.method, r.slice) == pooled and r.accuracy]
    (cell,) = (e.cell for (m, c), e in summary.entries.items()
               if (m, c.data, c.metric) == ("raw", "toy", "accuracy"))  # fmt: skip
    assert len(mine) == 3
    assert "over donors or pairs, where these are held out" in summary.remarks[0]
    assert (cell.mean, cell.sd) == (pytest.approx(fmean(mine)), pytest.approx(stdev(mine)))


def test_differences_are_over_slices_and_open_where_two_cannot_decide(results, summary):
    _, rows = read_bench(results, "toy")

    def value(method, slug):
        wanted = ("toy", method, slug, "paper20@1")
        return fmean(
            r.accuracy or 0.0 for r in rows if (r.data, r.method, r.slice, r.split) == wanted
        )

    (found,) = (d for d in summary.differences
                if (d.method, d.reference, d.column.data, d.column.metric)
                == ("ours-16", "ours-16-untrained", "toy", "accuracy"))  # fmt: skip
    slugs = sorted({row.slice for row in rows if row.slice})
    expected = fmean(value("ours-16", s) - value("ours-16-untrained", s) for s in slugs)
    assert found.found.mean == pytest.approx(expected)
    assert found.found.n_units == 2
    assert found.found.low is None
    assert any("No confidence interval" in line and "(here 2)" in line for line in summary.remarks)
    assert {d.verdict for d in summary.differences} == {"open"}
    assert {str(e.rank) for (_, c), e in summary.entries.items() if c.split == "paper20@1"} == {
        "1-4"
    }


def test_twelve_donors_that_agree_support_a_rank(results):
    document, rows = read_bench(results, "toy")
    base = next(r for r in rows if r.method == "raw" and r.slice and r.task.startswith("domain"))
    made = [
        replace(base, method=method, slice=f"s{i}", group=f"d{i}", accuracy=level + 0.01 * (i % 3))
        for method, level in (("raw", 0.2), ("ours-16", 0.8), ("majority", 0.1))
        for i in range(12)
    ]
    made += [replace(row, slice=None, group=None) for row in made]
    summary = summarise(document, made, metrics=["accuracy"])
    ranks = {method: str(entry.rank) for (method, _), entry in summary.entries.items()}
    assert ranks == {"ours-16": "1", "raw": "2", "majority": "3"}
    # Three pairs: 2 / 2^7 * 3 is the first product below 0.05.
    assert not any("no rank is decided" in line for line in summary.remarks)
    few = summarise(document, [r for r in made if r.group in {None, "d0", "d1"}])
    assert any("no rank is decided below 7 of them; here are 2" in line for line in few.remarks)


def test_printed_numbers_stand_only_beside_the_same_data_set_and_table(summary):
    beside = {(m, c.data): e.printed.value for (m, c), e in summary.entries.items() if e.printed}
    assert beside == {("ours-16", "toy"): 0.753}
    layout = report_blocks(summary)[0]
    assert layout.title == "Table 1 of the paper"
    cells = {row[0]: row[1] for row in layout.rows}
    assert cells["ours-16 (ours(16))"].endswith(" / 0.753*")
    assert cells["gone (gone)"] == "- / 0.222"
    assert any("same-slices: printed numbers are not shown" in line for line in summary.remarks)
    assert any("it is wrong" in line for line in summary.remarks)


def test_printed_numbers_stand_beside_their_split_and_head_alone(results):
    document, rows = read_bench(results, "toy")
    mine = [r for r in rows if (r.data, r.method, r.split) == ("toy", "ours-16", "paper20@1")]
    others = [
        *(replace(row, split="block20@1", accuracy=0.9) for row in mine),
        *(replace(row, head="MLP (800 epochs)", accuracy=0.8) for row in mine),
    ]
    alone = {
        "data": {"toy": document.data["toy"]},
        "suite": document.suite.model_copy(update={"data": document.suite.data[:1]}),
        "printed": (
            *document.printed,
            document.printed[0].model_copy(update={"data": "average", "value": 0.5, "note": ""}),
        ),
    }
    summary = summarise(document.model_copy(update=alone), [*others, *mine], metrics=["accuracy"])
    (column,) = (c for (_, c), entry in summary.entries.items() if entry.printed)
    assert (column.split, column.head) == ("paper20@1", "kNN (k=10)")
    ours = f"{summary.entries['ours-16', column].cell.mean:.3f}"
    row = next(r for r in report_blocks(summary)[0].rows if r[0].startswith("ours-16"))
    assert (row[1], row[-1]) == (f"{ours} / 0.753*", f"{ours} / 0.500")


def test_the_page_stands_alone_and_escapes_what_came_from_outside(summary):
    blocks = report_blocks(summary)
    page = bench_page(summary, blocks, {"a<b.png": b"x"})
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    text = bench_markdown(summary, blocks, [])
    assert "<script" not in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()[2:]
              if line.startswith("| majority")}  # fmt: skip
    assert min(widths) >= 3


def test_files_and_maps(results, summary, tmp_path):
    pytest.importorskip("matplotlib")
    files = write_bench_report(results, tmp_path / "a", summary)
    names = {path.name for path in files}
    assert {"report.html", "report.md", "table.csv", "differences.csv", "toy_seeds.png"} <= names
    assert any("_map_" in name for name in names)
    again = write_bench_report(results, tmp_path / "b", summary)
    assert [p.read_bytes() for p in files] == [p.read_bytes() for p in again]
    table = list(csv.DictReader(io.StringIO((tmp_path / "a" / "table.csv").read_text())))
    assert len(table) == len(table_rows(summary)) == len(summary.entries)
    assert len(difference_rows(summary)) == len(summary.differences) > 0


def test_pictures_are_of_the_rows_of_the_suite(results, tmp_path, monkeypatch):
    """Other suites may have left further seeds in the folder, and nothing on a data set."""
    pytest.importorskip("matplotlib")
    drawn: list[int] = []

    def note(rows, *_):
        drawn.extend(row.seed for row in rows)
        return b""

    monkeypatch.setattr("sttrain.bench.boxes.box_plots", note)
    document, rows = read_bench(results, "toy")
    data = {**document.data, "empty": document.data["toy"]}
    mine = [row for row in rows if row.seed == 1 or row.task != "domain-detection@1"]
    summary = summarise(document.model_copy(update={"data": data}), mine)
    files = write_bench_report(results, tmp_path, summary)
    assert set(drawn) == {1}
    maps = [path.name for path in files if "_map_" in path.name]
    assert maps
    assert all(name.endswith("_s001.png") for name in maps)
    assert any("nothing was judged on it" in line for line in summary.remarks)


def test_a_suite_tells_what_was_seen_and_what_could_not_be_learned(results, tmp_path):
    document, rows = read_bench(results, "toy")
    mine = [row for row in rows if row.task.startswith("domain")]
    assert all(row.transductive and row.rare == "" == row.absent for row in mine)
    assert {row.seen for row in mine if row.method == "raw"} == {""}
    assert {row.transductive for row in rows if row not in mine} == {None}
    summary = summarise(document, rows)
    files = write_bench_report(results, tmp_path, summary, maps=False)
    shown = {path.name: path.read_text() for path in files}
    assert "toy: paper20@1: transductive" in shown["report.html"]
    assert "toy: paper20@1: transductive" in shown["report.md"]
    odd = [
        replace(row, rare="rim", absent="core", converged=False, split="donor-out@1",
                held_out="d0", transductive=False, seen="unknown")
        for row in mine
        if row.data == "toy"
    ]  # fmt: skip
    text = "\n".join(summarise(document, odd).remarks)
    assert "toy: Too small to train on, but scored: rim." in text
    assert "toy: donor-out@1: scored where no training spot has the class" in text
    assert f"stopped at its limit in {len(odd)} rows" in text
    assert "toy: donor-out@1: not known of" in text


def test_suites_of_older_versions_are_read(results, tmp_path):
    for name in ("toy.json", "toy.parquet"):
        (tmp_path / name).write_bytes((results / name).read_bytes())
    path = tmp_path / "toy.parquet"
    later = ["converged", "transductive", "seen", "held_out", "rare", "absent"]
    write_parquet(path, read_table(path, set(later)).drop_columns(later))
    document, rows = read_bench(tmp_path, "toy")
    assert {row.transductive for row in rows} == {None}
    text = "\n".join(summarise(document, rows).remarks)
    assert "toy: paper20@1: not known of ours-16, ours-16-untrained whether" in text
    write_parquet(path, read_table(path, set()).drop_columns(["accuracy"]))
    with pytest.raises(IntegrityError, match="columns missing: accuracy"):
        read_bench(tmp_path, "toy")


def test_curves_are_of_checkpoints_that_differ_in_a_number(results):
    pytest.importorskip("matplotlib")
    document, rows = read_bench(results, "toy")
    checkpoint = document.suite.checkpoints[0]
    numbered = [checkpoint.model_copy(update={"name": f"ours-{n}"}) for n in (8, 16, 24)]
    document = document.model_copy(
        update={"suite": document.suite.model_copy(update={"checkpoints": tuple(numbered)})}
    )
    mine = [row for row in rows if row.method == "ours-16" and row.data == "toy"]
    made = [
        replace(row, method=f"ours-{n}", accuracy=None if row.accuracy is None else n / 100)
        for row in mine
        for n in (8, 16, 24)
    ]
    (trend,) = (
        t for t in find_trends(summarise(document, made)) if t.metric == "accuracy"
    )  # fmt: skip
    assert [(n, round(mean, 6)) for n, mean, _ in trend.points] == [
        (8, 0.08),
        (16, 0.16),
        (24, 0.24),
    ]
    assert trend.printed == ((16, 0.753),)
    assert draw_trends([trend]).startswith(b"\x89PNG")
    assert find_trends(summarise(document, [r for r in made if r.method != "ours-8"])) == []


def test_the_command(results, tmp_path):
    def call(*arguments):
        done = CliRunner().invoke(cli, ["report", str(results), *map(str, arguments)])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    assert "Table 1 of the paper" in call("--suite", "toy")
    facts = json.loads(
        call("--suite", "toy", "--json", "-o", tmp_path / "out", "--no-maps", "--against", "raw")
    )
    assert {d["reference"] for d in facts["differences"]} >= {"raw", "ours-16-untrained"}
    assert len(facts["files"]) == 4


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--metric", "ari_slices"], ["metric 'ari_slices'"]),
        (["--compare", "nonsense", "--against", "nobody"], ["'nonsense'", "'nobody'"]),
        (["--slice", "nosuch", "--seed", "77"], ["--slice", "--seed"]),
    ],
)
def test_options_that_a_suite_has_no_use_for_are_refused(results, options, refused):
    done = CliRunner().invoke(cli, ["report", str(results), "--suite", "toy", *options])
    assert isinstance(done.exception, BadUsageError)
    assert "V03" in str(done.exception)
    assert all(name in str(done.exception) for name in refused)


def test_a_suite_without_a_defined_score_says_so_and_one_without_metrics_is_refused(results):
    document, rows = read_bench(results, "toy")
    undefined = [
        replace(row, accuracy=None, ari_pred=None) for row in rows if row.task.startswith("domain")
    ]
    summary = summarise(document, undefined)
    assert any("is defined here" in line for line in summary.remarks)
    assert table_rows(summary) == []
    with pytest.raises(BadUsageError, match="at least 1 item"):
        read_suite(results.parent / "toy.toml", {"metrics": []})


def test_rows_of_corpora_that_the_document_does_not_name_are_refused(results, tmp_path):
    with pytest.raises(BadInputError, match="suites there: toy"):
        read_bench(results, "other")
    for name in ("toy.json", "toy.parquet"):
        (tmp_path / name).write_bytes((results / name).read_bytes())
    document, _ = read_bench(tmp_path, "toy")
    record = document.data["toy"]
    corpus_id = record.corpus_id
    other = {**document.data, "toy": record.model_copy(update={"corpus_id": "0" * 64})}
    changed = document.model_copy(update={"data": other})
    (tmp_path / "toy.json").write_bytes(changed.to_bytes())
    with pytest.raises(BadInputError, match=f"does not name: {corpus_id[:12]}"):
        read_bench(tmp_path, "toy")
