import json

import pytest
from click.testing import CliRunner

from sttrain.cli import cli
from sttrain.errors import BadUsageError
from sttrain.judge.probe_config import ProbeConfig
from tests.corpora import write_corpus
from tests.sttrain.judged import write_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "eval", kind="cover", n_slices=1)


def call(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("command", ["embed", "probe", "cluster", "reconstruct", "report"])
def test_help_shows_an_example(command):
    assert f"Example: sttrain {command}" in call(command, "--help").stdout


def test_help_names_every_default_of_the_config():
    text = " ".join(call("probe", "--help").stdout.replace("│", " ").split())
    for name in ProbeConfig.model_fields:
        assert "--" + name.replace("_", "-").removesuffix("s") in text.replace("heads", "head")
    assert "[default: paper20@1, block20@1]" in text
    assert "[default: 800]" in text


def test_probe_then_report(corpus, tmp_path):
    out = tmp_path / "results"
    common = ["probe", corpus.root, "-o", out, "--split", "paper20@1", "--head", "knn"]
    first = call(*common, "--method", "raw", "--seeds", 2)
    assert "kNN (k=10)" in first.stdout
    assert "computed: 2" in first.stdout
    again = json.loads(call(*common, "--method", "raw", "--method", "coords", "--json").stdout)
    assert (again["computed"], again["reused"]) == (4, 2)
    assert {row["method"] for row in again["table"]} == {"raw", "coords"}
    shown = call("report", out, "-o", tmp_path / "report", "--metric", "macro_f1")
    assert "macro_f1" in shown.stdout
    assert "report.md" in shown.stdout
    assert (tmp_path / "report" / "report.md").is_file()
    facts = json.loads(
        call("report", out, "--json", "--compare", "raw", "--against", "coords").stdout
    )
    assert len(facts["differences"]) == 2
    assert facts["files"] == []


def test_embed_says_what_was_covered_and_probe_reads_it(corpus, tmp_path):
    run = write_run(tmp_path / "run", corpus)
    shown = call("embed", run, corpus.root, "-o", tmp_path / "ours.h5ad", "--device", "cpu")
    n_spots = sum(entry.n_spots for entry in corpus.document.slices)
    assert f"{n_spots} of {n_spots} spots" in shown.stdout
    facts = json.loads(
        call("embed", run, corpus.root, "-o", tmp_path / "untrained.parquet", "--untrained",
             "--device", "cpu", "--json").stdout
    )  # fmt: skip
    assert facts["width"] == 16
    assert facts["provenance"]["steps"] == 0
    assert facts["coverage"][0]["fewest"] >= 1
    judged = call(
        "probe", corpus.root, "-o", tmp_path / "r", "--split", "paper20@1", "--head", "knn",
        "--embedding", f"ours={tmp_path / 'ours.h5ad'}",
        "--embedding", f"untrained={tmp_path / 'untrained.parquet'}", "--json",
    )  # fmt: skip
    pairs = {(d["method"], d["reference"]) for d in json.loads(judged.stdout)["differences"]}
    assert pairs == {("ours", "untrained")}


def test_output_for_machines_stays_off_the_bar(corpus, tmp_path):
    result = call("probe", corpus.root, "-o", tmp_path / "r", "--method", "majority", "--json",
                  "--split", "paper20@1", "--head", "knn", "--seeds", 1)  # fmt: skip
    assert result.stderr == ""


@pytest.mark.parametrize(
    "flags", [["--seeds", "0"], ["--mlp-epochs", "0"], ["--mlp-patience", "-1"], ["--k", "0"]]
)
def test_numbers_out_of_range_are_usage_errors(corpus, tmp_path, flags):
    arguments = ["probe", str(corpus.root), "-o", str(tmp_path / "r"), "--method", "raw", *flags]
    with pytest.raises(BadUsageError):
        CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
