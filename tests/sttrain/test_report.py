import builtins
import csv
import io
from dataclasses import replace
from statistics import stdev

import pytest
from rich.console import Console

from stbuild.corpus.errors import PlatformError
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.probe_config import ProbeConfig
from sttrain.judge.probes import probe_corpus
from sttrain.judge.report import Column, build_report, write_report
from sttrain.judge.results import ResultRow, open_store
from sttrain.judge.tables import format_cell, report_markdown, terminal_tables
from sttrain.progress import show_progress
from tests.corpora import write_corpus

ROW = ResultRow(
    job="j", corpus="tiny", corpus_id="a" * 64, method="raw", source="baseline",
    source_digest="d", checkpoint=None, head="kNN (k=10)", epochs=None, converged=None,
    split="paper20@1", split_digest="s", transductive=True, held_out=None, seed=0, repeat=0,
    slice=None, absent="", n_train=10, n_test=40, n_classes=3,
    rare="", accuracy=0.5, ari_pred=0.2, macro_f1=0.4, balanced_accuracy=0.45, settings="{}",
    versions="{}",
)  # fmt: skip
KNN = Column(split="paper20@1", head="kNN (k=10)", metric="accuracy")


def rows_of(method, *accuracies, **changes):
    return [replace(ROW, method=method, seed=i, accuracy=a, **changes)
            for i, a in enumerate(accuracies)]  # fmt: skip


def test_cells_are_mean_and_sample_deviation_over_seeds():
    report = build_report(rows_of("raw", 0.5, 0.6, 0.9))
    cell = report.cells["raw", KNN]
    assert cell.mean == pytest.approx(2 / 3)
    assert cell.sd == pytest.approx(stdev([0.5, 0.6, 0.9]))
    assert cell.n_seeds == 3
    assert format_cell(cell) == "0.667 ± 0.208"


def test_repeats_of_a_seed_count_as_one_and_undefined_scores_as_none():
    rows = [
        replace(ROW, seed=0, repeat=0, accuracy=0.2),
        replace(ROW, seed=0, repeat=1, accuracy=0.4),
        replace(ROW, seed=1, accuracy=0.9, ari_pred=None),
    ]
    report = build_report(rows, metrics=["accuracy", "ari_pred"])
    assert report.cells["raw", KNN].mean == pytest.approx(0.6)
    assert report.cells["raw", KNN].n_seeds == 2
    assert report.cells["raw", replace(KNN, metric="ari_pred")].n_seeds == 1
    assert any("undefined" in remark for remark in report.remarks)


def test_one_seed_has_no_deviation():
    assert format_cell(build_report(rows_of("raw", 0.5)).cells["raw", KNN]) == "0.500"


def test_differences_are_paired_over_the_seeds_that_both_have():
    rows = rows_of("raw", 0.1, 0.5, 0.3) + rows_of("ours", 0.2, 0.7, source="embedding")
    (found,) = build_report(rows, metrics=["accuracy"]).differences
    assert (found.method, found.reference, found.n_seeds) == ("ours", "raw", 2)
    assert found.mean == pytest.approx(0.15)
    assert found.se == pytest.approx(stdev([0.1, 0.2]) / 2**0.5)


def test_untrained_and_raw_are_the_references():
    rows = [
        *rows_of("raw", 0.1),
        *rows_of("untrained", 0.3, source="embedding"),
        *rows_of("ours", 0.2, source="embedding"),
    ]
    pairs = {(d.method, d.reference) for d in build_report(rows).differences}
    assert pairs == {("ours", "untrained"), ("ours", "raw"), ("untrained", "raw")}
    chosen = build_report(rows, compare=["raw"], against=["ours"]).differences
    assert {(d.method, d.reference) for d in chosen} == {("raw", "ours")}


def test_methods_stand_from_controls_to_embeddings():
    names = ["ours", "nbmean18-pca50", "raw", "untrained", "pca50", "pca10", "majority", "coords",
             "nbmean6-pca50"]  # fmt: skip
    rows = [
        row
        for name in names
        for row in rows_of(name, 0.1, source="embedding" if name[0] in "uo" else "baseline")
    ]
    assert build_report(rows).methods == (
        "majority", "coords", "raw", "pca10", "pca50", "nbmean6-pca50", "nbmean18-pca50",
        "untrained", "ours",
    )  # fmt: skip


def test_the_mean_of_slices_is_taken_within_a_seed_first():
    rows = [
        replace(ROW, seed=seed, slice=slug, ari_pred=ari)
        for seed, slug, ari in [(0, "a", 0.0), (0, "b", 1.0), (1, "a", 0.2), (1, "b", 0.4)]
    ]
    column = Column(split="paper20@1", head="kNN (k=10)", metric="ari_slices")
    cell = build_report(rows, metrics=["ari_slices"]).cells["raw", column]
    assert cell.mean == pytest.approx(0.4)
    assert cell.sd == pytest.approx(stdev([0.5, 0.3]))


def test_the_mean_of_slices_is_over_slices_where_donors_have_different_numbers():
    aris = {("d0", "a"): 0.1, ("d0", "b"): 0.3, ("d0", "c"): 0.2, ("d1", "d"): 0.6}
    rows = [
        replace(ROW, split="donor-out@1", seed=int(donor[1]), held_out=donor, slice=slug,
                ari_pred=ari + gain, method=method, repeat=repeat)
        for (donor, slug), ari in aris.items()
        for method, gain in (("raw", 0.0), ("ours", 0.1 if donor == "d0" else 0.3))
        for repeat in range(2 if donor == "d0" else 1)
    ]  # fmt: skip
    report = build_report(rows, metrics=["ari_slices"], compare=["ours"])
    column = Column(split="donor-out@1", head="kNN (k=10)", metric="ari_slices")
    cell = report.cells["raw", column]
    assert cell.mean == pytest.approx(0.3)
    assert cell.sd == pytest.approx(stdev([0.2, 0.6]))
    assert cell.n_seeds == 2
    (found,) = report.differences
    assert found.mean == pytest.approx(report.cells["ours", column].mean - cell.mean)
    # Three slices are 0.05 below the mean of 0.15, the fourth is 0.15 above.
    assert found.se == pytest.approx((2 * 2 * 0.15**2) ** 0.5 / 4)


def test_classes_that_no_training_spot_has_are_named():
    rows = rows_of("raw", 0.1, 0.2, rare="rim; core") + rows_of("ours", 0.1, rare="rim")
    rows += [replace(ROW, split="block20@1", absent=names) for names in ("WM; L1", "L1", "")]
    remarks = build_report(rows).remarks
    assert "Too small to train on, but scored: core; rim." in remarks
    (line,) = (line for line in remarks if "no training spot" in line)
    assert line.startswith("block20@1: ")
    assert line.endswith(": L1; WM.")


def test_remarks_say_what_a_reader_has_to_know():
    rows = rows_of("raw", 0.1, 0.2) + rows_of("majority", 0.1, head="MLP (50 epochs)", epochs=50)
    text = " ".join(build_report([*rows, replace(ROW, rare="rim", seed=1)]).remarks)
    assert "paper20@1 over 1 seed (MLP (50 epochs)), 2 seeds (kNN (k=10))." in text
    assert "ncomplete" not in text
    assert "paper20@1: transductive" in text
    assert "50 epochs (800 in the paper)" in text
    assert "majority ignores the head" in text
    assert "Too small to train on, but scored: rim" in text
    quiet = " ".join(build_report([replace(ROW, transductive=False)]).remarks)
    assert "transductive" not in quiet


def held_out(method, *accuracies, **changes):
    """Rows of a split that holds donors out, one after the other."""
    rows = rows_of(method, *accuracies, split="donor-out@1", transductive=False, **changes)
    return [replace(row, held_out=f"d{row.seed}") for row in rows]


def test_splits_of_different_sizes_and_undefined_scores_are_not_called_incomplete():
    rows = [
        *rows_of("raw", 0.1, 0.2, 0.3),
        *held_out("raw", 0.1, 0.2, 0.3, 0.4, 0.5),
        *held_out("libsize", 0.1, 0.2, 0.3, 0.4, 0.5, ari_pred=None),
    ]
    report = build_report(rows)
    assert report.remarks[0] == (
        "Mean and standard deviation, pooled over slices: donor-out@1 over 5 held-out donors; "
        "paper20@1 over 3 seeds."
    )
    text = report_markdown(report, [])
    assert "ncomplete" not in text
    assert " of " not in text.partition("\n- ")[0]


def test_a_method_that_lacks_seeds_is_named_and_its_cells_are_marked():
    rows = rows_of("raw", 0.1, 0.2, 0.3) + rows_of("libsize", 0.4)
    report = build_report(rows, metrics=["accuracy"])
    (remark,) = (line for line in report.remarks if line.startswith("Incomplete"))
    assert "libsize, paper20@1, kNN (k=10): 1 of 3" in remark
    assert "raw" not in remark
    text = report_markdown(report, [])
    assert "| libsize | 0.400 (1 of 3) |" in text
    assert "| raw | 0.200 ± 0.100 |" in text
    shown = io.StringIO()
    for table in terminal_tables(report):
        Console(width=160, file=shown).print(table)
    assert "0.400 (1 of 3)" in shown.getvalue()
    found = {row["method"]: (row["n_fits"], row["n_expected"]) for row in report.long_rows()}
    assert found == {"libsize": (1, 3), "raw": (3, 3)}


def test_fewer_repeats_of_a_group_are_incomplete_too():
    rows = [replace(row, repeat=n) for n in range(2) for row in held_out("raw", 0.1, 0.3)]
    rows += held_out("ours", 0.2, 0.4, source="embedding")
    report = build_report(rows, metrics=["accuracy"])
    assert "| ours | 0.300 ± 0.141 (2 of 4) |" in report_markdown(report, [])


def test_the_note_on_differences_tells_donors_from_seeds():
    seeds = rows_of("raw", 0.1, 0.2) + rows_of("ours", 0.3, 0.5, source="embedding")
    donors = held_out("raw", 0.1, 0.2) + held_out("ours", 0.3, 0.5, source="embedding")
    text = report_markdown(build_report(donors, metrics=["accuracy"]), [])
    assert "on the same donors" in text
    assert "speaks of other tissue" in text
    assert "not of other tissue" not in text
    assert "| difference | donors |" in text
    text = report_markdown(build_report(seeds, metrics=["accuracy"]), [])
    assert "not of other tissue" in text
    assert "donor" not in text
    text = report_markdown(build_report([*seeds, *donors], metrics=["accuracy"]), [])
    assert "| difference | seeds or donors |" in text
    assert "donor-out@1: every group is judged once" in text


def test_rows_of_two_corpora_are_refused():
    with pytest.raises(BadInputError, match="rows of corpora aaaaaaaaaaaa, bbbbbbbbbbbb"):
        build_report([ROW, replace(ROW, corpus_id="b" * 64)])


def test_no_rows_are_refused():
    with pytest.raises(BadInputError, match="no rows"):
        build_report([])


@pytest.mark.parametrize(
    "options", [{"metrics": ["auc"]}, {"compare": ["ours"]}, {"against": ["raw", "untraind"]}]
)
def test_unknown_names_are_refused(options):
    with pytest.raises(BadUsageError, match="choose among"):
        build_report([ROW], **options)


def test_methods_that_are_not_there_are_told_all_at_once():
    with pytest.raises(BadUsageError) as refused:
        build_report([ROW], compare=["ours"], against=["untraind"])
    assert [p.subject for p in refused.value.problems] == ["method 'ours'", "method 'untraind'"]


def test_a_report_without_a_defined_score_says_so():
    rows = rows_of("raw", 0.5, 0.6, slice="s", ari_pred=None)
    report = build_report(rows, metrics=["ari_slices"])
    assert (report.cells, report.differences) == ({}, ())
    assert report.remarks[0] == "None of the metrics that are shown is defined here."
    assert "is defined here" in report_markdown(report, [])
    assert list(terminal_tables(report))


def test_markdown_escapes_names():
    rows = [replace(ROW, method="raw", corpus="<b>|x|</b>", split="a_b@1")]
    text = report_markdown(build_report(rows), [])
    assert "<b>" not in text
    assert r"&lt;b&gt;\|x\|&lt;/b&gt;" in text
    assert r"a\_b@1" in text


def test_the_epochs_stand_in_the_table():
    rows = rows_of("raw", 0.1, head="MLP (50 epochs)", epochs=50)
    report = build_report(rows)
    assert "MLP (50 epochs)" in report_markdown(report, [])
    (table,) = terminal_tables(report)
    assert any("MLP (50 epochs)" in str(column.header) for column in table.columns)


def test_differences_stand_in_text_and_markdown():
    rows = [
        *rows_of("raw", 0.1, 0.2),
        *rows_of("ours", 0.4, 0.7, source="embedding"),
        *rows_of("theirs", 0.3, source="embedding", head="MLP (50 epochs)", epochs=50),
    ]
    report = build_report(rows, metrics=["accuracy"], against=["raw", "ours"])
    text = report_markdown(report, [])
    assert "| ours | raw | paper20@1 | kNN (k=10) | accuracy | +0.400 ± 0.100 | 2 |" in text
    assert "| theirs | 0.300 | - |" in text
    shown = io.StringIO()
    console = Console(width=160, file=shown)
    for table in terminal_tables(report):
        console.print(table)
    assert "+0.400 ± 0.100" in shown.getvalue()


def test_a_single_seed_has_a_difference_without_error():
    rows = rows_of("raw", 0.1) + rows_of("ours", 0.4, source="embedding")
    text = report_markdown(build_report(rows, metrics=["accuracy"]), [])
    assert "| accuracy | +0.300 | 1 |" in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_for_terminals(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    with show_progress("probe", quiet=False) as report:
        assert (report is not None) == is_terminal
        if report:
            report(1, 4, "raw [bold]")
    with show_progress("probe", quiet=True) as report:
        assert report is None
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("probe" in shown.err) == is_terminal


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    corpus = write_corpus(root / "eval", kind="cover", n_slices=2)
    probe_corpus(
        corpus.root,
        root / "results",
        methods=["majority", "coords", "raw"],
        embeddings=[],
        config=ProbeConfig(splits=("paper20@1",), heads=("knn",), seeds=2),
    )
    return root / "results"


def test_a_report_is_written_from_the_results_alone(results, tmp_path):
    report = build_report(open_store(results).rows(), compare=["raw"], against=["coords"])
    files = write_report(results, tmp_path / "out", report)
    names = [path.name for path in files]
    assert names == [
        "map_toy1_paper20@1_knn-k-10_s000.png", "table.csv", "differences.csv", "report.md"
    ] or names[0].startswith("map_toy0")  # fmt: skip
    assert files[0].read_bytes().startswith(b"\x89PNG")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert {row["method"] for row in table} == {"majority", "coords", "raw"}
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"]({names[0]})" in text
    assert "transductive" in text
    assert "## Paired differences" in text


def test_a_report_repeats_itself_byte_for_byte(results, tmp_path):
    report = build_report(open_store(results).rows())
    for name in "ab":
        write_report(results, tmp_path / name, report, st_slice="toy1", seed=1)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    (picture,) = (tmp_path / "a").glob("map_toy1_*_s001.png")
    assert b"tEXt" not in picture.read_bytes()


@pytest.mark.parametrize("options", [{"st_slice": "toy9"}, {"seed": 7}])
def test_maps_of_what_is_not_there_are_refused(results, tmp_path, options):
    report = build_report(open_store(results).rows())
    with pytest.raises(BadUsageError, match="the results hold no"):
        write_report(results, tmp_path / "out", report, **options)
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_extra_is_named(results, tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    report = build_report(open_store(results).rows())
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlatformError, match=r"pip install 'stcorpus\[plots\]'"):
        write_report(results, tmp_path / "out", report)
    files = write_report(results, tmp_path / "out", report, maps=False)
    assert [path.name for path in files] == ["table.csv", "differences.csv", "report.md"]
