"""The command line: results, exit codes, messages, help; defaults stand in one place."""

import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from click.testing import CliRunner

import stbuild.cli
from stbuild.cli import cli
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from tests.trees import tree_digests

MESSAGE = re.compile(r"error\[[A-Z]\d{2,3}[a-z]?\] [^\n]+?( \([^\n]+\))?: [^\n]+\. fix: [^\n]+")


def run(*arguments, code=0):
    """Run the program in this process and return (stdout, stderr); a start costs a second."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["stbuild", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            stbuild.cli.main()
    assert (stopped.value.code or 0) == code, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def test_the_program_runs_as_a_user_starts_it(slice_files, tmp_path):
    for start in ([sys.executable, "-m", "stbuild"], [Path(sys.executable).with_name("stbuild")]):
        command = [*start, "plan", slice_files[0], tmp_path / "no.h5ad", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 3
        assert len(json.loads(done.stdout)["slices"]) == 1
        assert "B001" in done.stderr


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_with_an_example(command):
    done = CliRunner().invoke(cli, [command, "--help"])
    assert done.exit_code == 0
    assert f"stbuild {command}" in done.output


@pytest.mark.parametrize(("command", "model"), [("compact", GridConfig), ("shard", ShardConfig)])
def test_every_config_field_is_an_option_without_a_default_of_its_own(command, model):
    options = {str(o.name): o.to_info_dict() for o in cli.commands[command].params}
    for name, field in model.model_fields.items():
        assert options[name]["default"] is None, name
        assert field.description in options[name]["help"]
        shown = "none" if field.default in (None, ()) else str(field.default)
        assert options[name]["help"].endswith(f"[default: {shown}]")


def test_the_whole_way_from_files_to_a_verified_corpus(slice_files, tmp_path):
    out, _ = run("plan", *slice_files, "--label", "label", "--json")
    planned = json.loads(out)
    assert planned["genes_common"] == 36
    assert [row["slug"] for row in planned["slices"]] == ["alpha", "beta", "gamma"]
    assert [row["kind"] for row in planned["slices"]] == ["hex", "square", "hex"]
    grids, train = tmp_path / "grids", tmp_path / "train"
    out, _ = run("compact", *slice_files, "-o", grids, "--label", "label")
    assert "3 grids" in out
    shard = ("shard", grids, "-o", train, "--window", 8, "--genes", 16, "--n-per-slice", 5)
    out, _ = run(*shard, "--json")
    assert json.loads(out)["n_windows"] == 15
    before = tree_digests(train)
    assert "nothing was written" in run(*shard)[0]
    assert "good" in run("verify", train)[0]
    run("shard", grids, "-o", tmp_path / "eval", "--window", 8, "--genes", 16, "--cover", 8,
        "--draws", 1, "--vocabulary", train)  # fmt: skip
    out, _ = run("show", grids / "alpha.zarr", "-o", tmp_path / "a.png", "--window", 8)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    first = (tmp_path / "a.png").read_bytes()
    run("show", grids / "alpha.zarr", "-o", tmp_path / "a.png", "--window", 8)
    assert (tmp_path / "a.png").read_bytes() == first
    assert tree_digests(train) == before


def test_more_slices_for_a_finished_corpus(slice_files, tmp_path):
    grids, first, second = tmp_path / "grids", tmp_path / "v1", tmp_path / "v2"
    size = ("--window", 8, "--genes", 16, "--n-per-slice", 5)
    run("compact", *slice_files[:2], "-o", grids)
    run("shard", grids, "-o", first, *size, "--name", "mine")
    assert "no others" in run("shard", grids, "-o", second, "--extend", first, code=3)[1]
    run("compact", *slice_files, "-o", grids)
    extend = ("shard", grids, "-o", second, "--extend", first)
    run("compact", slice_files[2], "-o", tmp_path / "alone")
    _, err = run("shard", tmp_path / "alone", *extend[2:], code=5)
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        "error[B097] slice 'alpha'",
        "error[B097] slice 'beta'",
    ]
    assert "window: 8 -> 4" in run(*extend, "--window", 4, code=2)[1]
    assert "3 slices" in run(*extend)[0]
    old, new = tree_digests(first), tree_digests(second)
    shards = [path for path in old if path.endswith(".tar")]
    assert shards
    assert {path: new[path] for path in shards} == {path: old[path] for path in shards}
    assert "good" in run("verify", second)[0]
    assert "nothing was written" in run(*extend)[0]


def test_the_corpus_is_named_after_its_manifest(slice_files, tmp_path):
    shutil.copy(slice_files[0], tmp_path / "a.h5ad")
    (tmp_path / "m.csv").write_text("slice,path\na,a.h5ad\n")
    (tmp_path / "m.toml").write_text('name = "Our Lab"\nsamples = "m.csv"\n')
    run("compact", tmp_path / "m.toml", "-o", tmp_path / "grids")
    size = ("--window", 8, "--genes", 16, "--n-per-slice", 5)
    assert "corpus our-lab:" in run("shard", tmp_path / "grids", "-o", tmp_path / "c", *size)[0]


def test_all_bad_inputs_of_a_run_are_listed_at_once(slice_files, tmp_path):
    (tmp_path / "empty.h5ad").write_bytes(b"")
    (tmp_path / "text.h5ad").write_text("version https://git-lfs.github.com/spec/v1\n")
    inputs = [slice_files[0], tmp_path / "empty.h5ad", tmp_path / "text.h5ad", tmp_path / "no.h5ad"]
    _, err = run("compact", *inputs, "-o", tmp_path / "g", code=3)
    lines = err.strip().splitlines()
    assert [line[6:10] for line in lines] == ["B002", "B001", "B003"]
    assert all(MESSAGE.fullmatch(line) for line in lines)
    assert "git lfs pull" in err
    _, err = run("compact", *inputs, "-o", tmp_path / "g", "--json", code=3)
    assert {json.loads(line)["code"] for line in err.splitlines()} == {"B001", "B002", "B003"}
    out, _ = run("compact", *inputs, "-o", tmp_path / "g", "--on-bad", "skip", code=4)
    assert "1 grids" in out


def test_unknown_config_keys_come_with_the_nearest_name(grids, tmp_path):
    (tmp_path / "c.toml").write_text("windw = 8\ngenes = 'x'\n")
    _, err = run("shard", grids, "-o", tmp_path / "c", "--config", tmp_path / "c.toml", code=2)
    assert "did you mean 'window'?" in err
    assert "key 'genes'" in err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        pytest.param(["--window", "0"], 2, id="window_zero"),
        pytest.param(["--window", "65"], 2, id="window_beyond_exact_integers"),
        pytest.param(["--genes", "-1"], 2, id="genes_negative"),
        pytest.param(["--seed", "-1"], 2, id="seed_negative"),
        pytest.param(["--cover", "20"], 2, id="stride_beyond_window"),
        pytest.param(["--nonsense"], 2, id="unknown_flag"),
    ],
)
def test_bad_values_exit_with_2(grids, tmp_path, flags, code):
    run("shard", grids, "-o", tmp_path / "c", *flags, code=code)
    assert not (tmp_path / "c").exists()


def test_a_list_in_the_manifest_reaches_the_corpus(slice_files, tmp_path):
    (tmp_path / "s.csv").write_text(f"slice,path\na,{slice_files[0]}\n")
    table = '[shard]\nwindow = 8\ngenes = 16\nn_per_slice = 3\nallow = ["one:two", "a:b"]\n'
    (tmp_path / "m.toml").write_text(f'name = "m"\nsamples = "s.csv"\n{table}')
    run("compact", tmp_path / "m.toml", "-o", tmp_path / "g")
    run("shard", tmp_path / "g", "-o", tmp_path / "c")
    assert open_corpus(tmp_path / "c").document.config.allow == ("one:two", "a:b")


def test_a_slip_in_the_name_of_a_split_is_told(slice_files, tmp_path):
    rows = "".join(
        f"{i},{path},{'tests' if i else 'train'}\n" for i, path in enumerate(slice_files)
    )
    (tmp_path / "s.csv").write_text(f"slice,path,split\n{rows}")
    (tmp_path / "m.toml").write_text('name = "m"\nsamples = "s.csv"\n')
    said = "split 'tests': 2 of 3 slices are in it; did you mean 'test'?"
    assert said in run("plan", tmp_path / "m.toml")[1]
    assert said in run("compact", tmp_path / "m.toml", "-o", tmp_path / "g")[1]
    size = ("--window", 8, "--genes", 16, "--n-per-slice", 3)
    out, err = run("shard", tmp_path / "g", "-o", tmp_path / "c", *size)
    assert "3 slices (tests 2, train 1)" in out
    assert said in err


def test_a_list_of_genes_that_no_slice_has_is_refused(train_corpus, grids, tmp_path):
    listed = tmp_path / "genes.txt"
    listed.write_text("\n".join(["gene_id", *train_corpus.genes]) + "\n")
    size = ("--window", 8, "--genes", 16, "--n-per-slice", 3, "--vocabulary")
    _, err = run("shard", grids, "-o", tmp_path / "c", *size, listed, code=3)
    assert MESSAGE.fullmatch(err.strip())
    assert f"1 of {len(train_corpus.genes) + 1} ids are in no slice (gene_id)" in err
    assert not (tmp_path / "c").exists()
    listed.write_text("\n".join(train_corpus.genes) + "\n")
    run("shard", grids, "-o", tmp_path / "c", *size, listed)


def test_a_conflict_exits_with_5_and_damage_with_6(train_corpus, grids, tmp_path):
    shutil.copytree(train_corpus.root, tmp_path / "c")
    _, err = run("shard", grids, "-o", tmp_path / "c", "--seed", 9, code=5)
    assert "seed: 0 -> 9" in err
    file = tmp_path / "c" / train_corpus.document.shards[0].path
    file.write_bytes(file.read_bytes()[:-512])
    _, err = run("verify", tmp_path / "c", code=6)
    assert str(file) in err


def test_damage_is_told_whatever_else_cannot_be_opened(train_corpus, tmp_path):
    shutil.copytree(train_corpus.root, tmp_path / "c")
    file = tmp_path / "c" / train_corpus.document.shards[0].path
    file.write_bytes(file.read_bytes()[:-512])
    roots = (tmp_path / "none", tmp_path / "c", train_corpus.root)
    _, alone = run("verify", tmp_path / "c", code=6)
    out, err = run("verify", *roots, code=6)
    assert [line.split(": ")[1].split(",")[0] for line in out.splitlines()] == ["BAD", "good"]
    *damage, last = err.splitlines()
    assert damage == alone.splitlines()
    assert "error[L23]" in last
    assert str(tmp_path / "none") in last
    out, err = run("verify", *roots, "--json", code=6)
    assert [row["corpus"] for row in json.loads(out)["corpora"]] == [str(r) for r in roots[1:]]
    assert len(err.splitlines()) == len(damage) + 1


def test_an_unwritable_output_exits_with_7(slice_files):
    _, err = run("compact", slice_files[0], "-o", "/proc/nowhere/grids", code=7)
    assert MESSAGE.fullmatch(err.strip())


def test_a_missing_corpus_exits_with_3(tmp_path):
    _, err = run("verify", tmp_path / "none", code=3)
    assert "no finished corpus" in err
    run("shard", tmp_path, "-o", tmp_path / "c", code=3)


def test_a_bug_exits_with_1_and_saves_its_traceback(monkeypatch, capsys, grids, tmp_path):
    def broken(_root):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("stbuild.grid.catalogue.read_catalogue", broken)
    monkeypatch.setattr(sys, "argv", ["stbuild", "shard", str(grids), "-o", str(tmp_path / "c")])
    with pytest.raises(SystemExit) as stopped:
        stbuild.cli.main()
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    saved = re.search(r"\((/[^)]+)\)", err)
    assert saved is not None
    trace = Path(saved[1])
    assert "boom" in trace.read_text()
    trace.unlink()


def test_a_number_beyond_64_bits_is_refused_before_any_work(slice_files, tmp_path):
    """JSON keeps it, but its reader does not: the grid could never be read again."""
    command = ("compact", slice_files[0], "-o", tmp_path / "g", "--max-gap", "1" + "0" * 25)
    _, said = run(*command, code=2)
    assert "max_gap" in said
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("name", ["a" * 300 + ".h5ad", "a\0b.h5ad"], ids=["long", "nul"])
@pytest.mark.parametrize("column", ["path", "positions", "labels_file"])
def test_names_that_no_file_has_are_refused_as_that_slice_alone(
    slice_files, tmp_path, name, column
):
    rows = {"path": str(slice_files[0]), "positions": "", "labels_file": "", column: name}
    sheet = f"slice,path,positions,labels_file\ngood,{slice_files[1]},,\n"
    (tmp_path / "m.csv").write_text(f"{sheet}odd,{','.join(rows.values())}\n")
    (tmp_path / "m.toml").write_text('name = "x"\nsamples = "m.csv"\n')
    for more, code in (([], 3), (["--on-bad", "skip"], 4)):
        _, err = run(
            "compact",
            tmp_path / "m.toml",
            "-o",
            tmp_path / "g",
            "--label",
            "label",
            *more,
            code=code,
        )
        assert "error[B001] slice 'odd'" in err
    assert [path.name for path in sorted((tmp_path / "g").glob("*.zarr"))] == ["good.zarr"]


def test_a_plan_refuses_a_slice_that_is_listed_twice(slice_files, tmp_path):
    (tmp_path / "link.h5ad").symlink_to(slice_files[0])
    out, err = run("plan", slice_files[0], tmp_path / "link.h5ad", "--json", code=3)
    assert [row["slug"] for row in json.loads(out)["slices"]] == ["alpha"]
    assert "error[B010] slice 'link'" in err or '"code": "B010"' in err
