import csv
import json
import shutil
from statistics import fmean

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from stbuild.corpus.errors import PlatformError
from sttrain.bench.inputs import make_plan, parse_given
from sttrain.bench.run import run_suite
from sttrain.bench.suite import FOLDER, Suite, known_suites, read_suite
from sttrain.bench.vectors import VectorCache
from sttrain.cli import cli
from sttrain.commands.bench import bench as command
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.errors import BadInputError, BadUsageError, ConflictError, IntegrityError
from sttrain.settings import parse_settings
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY, write_run

SUITE = """
name = "toy"
title = "a toy"
methods = ["majority", "raw", "coords"]
without = [{ method = "raw", heads = ["logistic"] }]
[[data]]
name = "one"
[[data]]
name = "two"
[[checkpoints]]
name = "ours"
what = "any"
untrained = true
[probe]
splits = ["paper20@1"]
heads = ["knn", "logistic"]
seeds = 2
[reconstruct]
windows = [8]
sizes = [3]
genes = 6
repeats = 2
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "eval", kind="cover", n_slices=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, corpus):
    return write_run(tmp_path_factory.mktemp("runs") / "run", corpus)


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(SUITE)
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if code:
        assert result.exception is not None
        return result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def given(corpus, checkpoint):
    return parse_given([f"one={corpus.root}"], [f"ours={checkpoint}"], [], [])


def bench(path, out, corpus, checkpoint, **options):
    return run_suite(
        read_suite(path), out, given=given(corpus, checkpoint), beside=path.parent,
        skip_missing=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus, checkpoint):
    """Folder and outcome of the suite, run once; tests that go on copy the folder."""
    root = tmp_path_factory.mktemp("finished")
    (root / "toy.toml").write_text(SUITE)
    return root / "r", bench(root / "toy.toml", root / "r", corpus, checkpoint)


@pytest.fixture
def continued(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "r")


def test_what_is_missing_is_named_and_skipped_only_on_request(suite_file, corpus, tmp_path):
    common = ["bench", suite_file, "-o", tmp_path / "r", "--data", f"one={corpus.root}"]
    error = call(*common, code=1)
    assert isinstance(error, BadUsageError)
    assert "data set 'two'" in str(error)
    assert "--checkpoint ours=RUN" in str(error)
    assert not (tmp_path / "r").exists()
    facts = json.loads(call("bench", "--json", *common[1:], "--skip-missing").stdout)
    assert len(facts["skipped"]) == 2
    kept = json.loads((tmp_path / "r" / "toy.json").read_text())
    assert kept["skipped"] == facts["skipped"]


def test_rows_are_those_of_the_suite_and_carry_what_decides_them(corpus, finished):
    rows = finished[1].rows
    probes = {(r.method, r.head) for r in rows if r.task == "domain-detection@1"}
    assert ("raw", "kNN (k=10)") in probes
    assert ("raw", "logistic") not in probes
    assert ("ours-untrained", "logistic") in probes
    filled = {r.method for r in rows if r.task == "reconstruction@1"}
    assert filled >= {"gene-mean", "ours", "ours-untrained"}
    assert {r.corpus_id for r in rows} == {corpus.document.corpus_id}
    assert all(r.wall_seconds is not None and r.wall_seconds >= 0 for r in rows)
    assert all(r.peak_mib > 10 and json.loads(r.versions)["sttrain"] for r in rows)
    table = pq.read_table(finished[0] / "toy.parquet")
    assert table.num_rows == len(rows)
    key = ("data", "method", "task", "split", "head", "seed", "repeat", "slice")
    listed = list(zip(*(table.column(name).to_pylist() for name in key), strict=True))
    assert len(set(listed)) == len(listed)


def test_a_rerun_computes_nothing_and_other_suites_share_what_is_there(
    suite_file, corpus, checkpoint, finished, continued
):
    first = finished[1]
    vectors = {p: p.stat().st_mtime_ns for p in (continued / "vectors").iterdir()}
    assert len(vectors) == 2
    before = (continued / "toy.parquet").read_bytes()
    again = bench(suite_file, continued, corpus, checkpoint)
    assert first.n_computed > 0
    assert (again.n_computed, again.n_reused) == (0, first.n_computed)
    assert (continued / "toy.parquet").read_bytes() == before
    suite_file.write_text(
        SUITE.replace('"raw", "coords"', '"raw"').replace("seeds = 2", "seeds = 3")
    )
    more = bench(suite_file, continued, corpus, checkpoint)
    assert 0 < more.n_computed < first.n_computed
    assert "coords" not in {row.method for row in more.rows}
    assert {p: p.stat().st_mtime_ns for p in vectors} == vectors


def test_damaged_files_are_named_and_made_again_once_they_are_removed(
    suite_file, corpus, checkpoint, continued
):
    first, second = sorted((continued / "vectors").iterdir())
    row = next((continued / "one" / "jobs").glob("raw_*"))
    whole = {path: path.read_bytes() for path in (first, second, row)}
    for path in (first, row):
        hurt = bytearray(whole[path])
        hurt[len(hurt) // 2] ^= 16
        path.write_bytes(hurt)
        with pytest.raises(IntegrityError, match="remove the file and run the same") as caught:
            bench(suite_file, continued, corpus, checkpoint)
        assert [(p.code, p.where) for p in caught.value.problems] == [("V20", str(path))]
        path.unlink()
        bench(suite_file, continued, corpus, checkpoint)
        assert path.read_bytes() == whole[path]
    first.write_bytes(whole[second])
    with pytest.raises(IntegrityError, match=r"its checkpoint is .* was expected"):
        bench(suite_file, continued, corpus, checkpoint)


def test_results_of_another_corpus_are_refused(suite_file, checkpoint, continued, tmp_path):
    other = write_corpus(tmp_path / "other", kind="cover", n_slices=2, seed=1)
    with pytest.raises(ConflictError, match="another -o folder"):
        bench(suite_file, continued, other, checkpoint)


def test_other_weights_under_the_same_name_are_refused(suite_file, corpus, checkpoint, continued):
    with pytest.raises(ConflictError, match="other vectors"):
        bench(suite_file, continued, corpus, checkpoint / "checkpoints" / "initial.json")


def test_the_same_weights_of_another_recipe_have_vectors_of_their_own(corpus, checkpoint, tmp_path):
    cache = VectorCache(root=tmp_path, data=read_evaluation_set(corpus))
    placed = write_run(tmp_path / "run", corpus, config=TINY.model_copy(update={"position": True}))
    first, second = (
        cache.of_checkpoint("ours", run, corpus.root, initial=True) for run in (checkpoint, placed)
    )
    assert first.checkpoint == second.checkpoint
    assert first.identity(cache.data) != second.identity(cache.data)


def test_a_view_is_embedded_on_its_own_corpus_and_judged_on_the_common_spots(
    corpus, checkpoint, tmp_path
):
    narrow = write_corpus(tmp_path / "narrow", kind="cover", n_slices=2, window=4)
    path = tmp_path / "views.toml"
    path.write_text(
        'name = "views"\ntitle = "views"\n[[data]]\nname = "one"\n'
        '[[checkpoints]]\nname = "wide"\nwhat = "any"\n'
        '[[checkpoints]]\nname = "narrow"\nwhat = "window 4"\nview = "w4"\n'
        '[probe]\nsplits = ["paper20@1"]\nheads = ["knn"]\nseeds = 1\n'
    )
    asked = parse_given(
        [f"one={corpus.root}", f"one/w4={narrow.root}"],
        [f"wide={checkpoint}", f"narrow={checkpoint}"], [], [],
    )  # fmt: skip
    rows = run_suite(read_suite(path), tmp_path / "r", given=asked, beside=tmp_path).rows
    digests = {row.method: row.source_digest for row in rows}
    assert set(digests) == {"wide", "narrow"}
    assert digests["wide"] != digests["narrow"]
    assert {row.corpus_id for row in rows} == {corpus.document.corpus_id}
    odd = write_corpus(tmp_path / "odd", kind="cover", n_slices=1, window=4)
    asked = parse_given(
        [f"one={corpus.root}", f"one/w4={odd.root}"],
        [f"wide={checkpoint}", f"narrow={checkpoint}"], [], [],
    )  # fmt: skip
    with pytest.raises(BadInputError, match="toy1"):
        run_suite(read_suite(path), tmp_path / "s", given=asked, beside=tmp_path)


def test_controls_that_a_data_set_cannot_give_are_left_out_and_told(suite_file, corpus, tmp_path):
    suite_file.write_text(SUITE.replace('"coords"', '"coords", "pca999"'))
    asked = parse_given([f"one={corpus.root}"], [], [], [])
    outcome = run_suite(
        read_suite(suite_file), tmp_path / "r", given=asked, beside=tmp_path, skip_missing=True
    )
    assert "pca999" not in {row.method for row in outcome.rows}
    told = [line for line in outcome.skipped if "pca999" in line]
    assert len(told) == 1
    assert "999 components of" in told[0]


def test_a_missing_package_is_told_before_anything_is_computed(
    suite_file, corpus, checkpoint, tmp_path, monkeypatch
):
    asked = given(corpus, checkpoint)
    monkeypatch.setattr("sttrain.judge.cluster.find_spec", lambda _: None)
    suite = read_suite(suite_file, {"cluster.algorithms": ["leiden"]})
    with pytest.raises(PlatformError, match="leidenalg and igraph not installed"):
        run_suite(suite, tmp_path / "r", given=asked, beside=tmp_path, skip_missing=True)
    assert not (tmp_path / "r").exists()


def test_keys_of_a_suite_may_be_set(suite_file):
    plain = read_suite(suite_file).probe
    probe = read_suite(suite_file, parse_settings(["probe.seeds=7", 'probe.heads=["knn"]'])).probe
    assert plain
    assert probe
    assert plain.seeds != 7
    assert (probe.seeds, probe.heads) == (7, ("knn",))
    with pytest.raises(BadUsageError, match="seedz"):
        read_suite(suite_file, {"probe.seedz": 7})


def test_a_data_set_may_have_a_checkpoint_of_its_own(suite_file, corpus, checkpoint, tmp_path):
    asked = [f"ours={tmp_path}/general", f"one/ours={checkpoint}"]
    given = parse_given([f"one={corpus.root}"], asked, [], [])
    (plan,) = make_plan(read_suite(suite_file), given, tmp_path).data
    assert {model.run for model in plan.models} == {checkpoint}
    given = parse_given([f"one={corpus.root}"], [f"onne/ours={checkpoint}"], [], [])
    with pytest.raises(BadUsageError, match="did you mean 'one/ours'"):
        make_plan(read_suite(suite_file), given, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"coords"', '"cords"', "did you mean 'coords'"),
        ("[probe]", "[prob]", "probe"),
        ('name = "two"', 'name = "one"', "stands twice"),
        ('name = "two"', 'name = "vectors"', "name of the folder of vectors"),
        ('method = "raw", heads', 'method = "pca50", heads', "does not judge"),
        ('title = "a toy"', 'title = "a toy"\nmetrics = ["acc"]', "unknown metric 'acc'"),
        ('name = "ours"', 'name = "libsize"', "name of a control"),
        ('title = "a toy"', 'title = "a toy"\npublished = ["scgtp"]', "did you mean 'scgpt'"),
    ],
)
def test_bad_suites_are_refused_with_the_nearest_name(suite_file, old, new, said):
    assert old in SUITE
    suite_file.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(BadUsageError, match=said):
        read_suite(suite_file)


def test_what_no_suite_asks_for_is_refused(suite_file, corpus, tmp_path):
    asked = parse_given([f"onne={corpus.root}"], [], [], [])
    with pytest.raises(BadUsageError, match="did you mean 'one'"):
        run_suite(
            read_suite(suite_file), tmp_path / "r", given=asked, beside=tmp_path, skip_missing=True
        )


def test_the_list_names_every_family_and_every_suite_of_this_project():
    assert "Commands" in call("bench").stdout
    assert len(json.loads(call("bench", "--list", "--json").stdout)["suites"]) == len(SUITES)
    shown = call("bench", "--list").stdout
    for name in ("majority", "banksyK", "scgpt-spatial", "novae", *SUITES):
        assert name in shown


def test_splits_that_a_corpus_lacks_are_told_before_anything_is_computed(
    suite_file, corpus, checkpoint, tmp_path
):
    suite_file.write_text(SUITE.replace('"paper20@1"', '"paper20@1", "donor-out@1"'))
    asked = parse_given(
        [f"one={corpus.root}", f"two={corpus.root}"], [f"ours={checkpoint}"], [], []
    )
    with pytest.raises(BadUsageError, match="donor-out@1") as caught:
        run_suite(read_suite(suite_file), tmp_path / "r", given=asked, beside=tmp_path)
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "r").exists()


SUITES = ("figure3", "honest", "levers", "quick", *(f"table{n}" for n in range(1, 8)))


def test_the_suites_of_this_project_are_sound():
    suites = known_suites(FOLDER)
    assert {suite.name for suite in suites} == set(SUITES)
    assert all((FOLDER / f"{suite.name}.toml").is_file() for suite in suites)
    assert Suite.model_validate(suites[0].model_dump()) == suites[0]


def test_printed_averages_are_those_of_their_rows_but_where_a_note_says_so():
    with (FOLDER / "paper_values.csv").open(newline="") as file:
        printed = list(csv.DictReader(file))
    rows: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for value in printed:
        key = tuple(value[name] for name in ("table", "method", "size", "metric"))
        rows.setdefault(key, {})[value["data"]] = value
    wrong: list[tuple[str, ...]] = []
    for key, found in rows.items():
        if "average" in found:
            assert len(found) == 7
            mean = fmean(float(v["value"]) for d, v in found.items() if d != "average")
            if abs(mean - float(found["average"]["value"])) > 0.001:
                wrong.append(key)
                assert found["average"]["note"]
    assert wrong == [("table2", "stofm", "", "accuracy")]


def test_printed_values_differ_between_tables_only_where_a_note_says_so():
    """One model stands in four tables: window 16, 512 weighted genes."""
    same = {("table1", "ours-16"), ("table4", "ours-16"), ("table5", "ours-512"),
            ("table6", "ours-weighted"), ("table2", "ours-16")}  # fmt: skip
    with (FOLDER / "paper_values.csv").open(newline="") as file:
        printed = [v for v in csv.DictReader(file) if (v["table"], v["method"]) in same]
    first = {(v["data"], v["metric"]): v["value"] for v in printed if v["table"] == "table1"}
    odd = {
        (v["table"], v["data"], v["metric"])
        for v in printed
        if v["value"] != first[v["data"], v["metric"]]
    }
    assert odd == {(v["table"], v["data"], v["metric"]) for v in printed if v["note"]}
    assert len(odd) == 4


def test_every_printed_row_is_asked_for_by_the_suite_of_its_table():
    suites = {str(suite.table): suite for suite in known_suites(FOLDER) if suite.table}
    with (FOLDER / "paper_values.csv").open(newline="") as file:
        printed = list(csv.DictReader(file))
    assert set(suites) == {value["table"] for value in printed}
    for value in printed:
        suite = suites[value["table"]]
        asked = {*suite.methods, *suite.published, *suite.embeddings}
        asked |= {checkpoint.name for checkpoint in suite.checkpoints}
        if (value["table"], value["method"]) != (
            "table7",
            "scgpt-spatial",
        ):  # it fills nothing here
            assert value["method"] in asked
        assert value["data"] in {"average", *(entry.name for entry in suite.data)}


@pytest.mark.parametrize("name", sorted(command.commands))
def test_every_command_below_explains_its_options_and_shows_an_example(name):
    text = " ".join(call("bench", name, "--help").stdout.split())
    assert f"Example: sttrain bench {name} " in text
    for option in command.commands[name].params:
        if isinstance(option, click.Option):
            assert len((option.help or "").split()) > 1, option.name
