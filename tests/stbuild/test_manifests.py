"""Manifests: what is accepted, and every problem of one at once."""

from typing import Any

import pytest

from stbuild.commands.options import resolve_config, resolve_given
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadInputError, BadUsageError
from stbuild.corpus.names import slugify
from stbuild.manifests.manifest import read_inputs


def write(tmp_path, sheet, toml='name = "x"\nsamples = "s.csv"\n'):
    (tmp_path / "s.csv").write_text(sheet, "utf-8")
    (tmp_path / "m.toml").write_text(toml, "utf-8")
    return [str(tmp_path / "m.toml")]


def test_a_sheet_gives_records_with_paths_beside_it(tmp_path):
    manifest = read_inputs(
        write(tmp_path, "\ufeffslice,path,donor,pitch_um\r\nA.1,d/a.h5ad,Br1,100\r\n\r\n")
    )
    (record,) = manifest.records
    assert (record.name, record.slug, record.donor) == ("A.1", "a-1", "Br1")
    assert record.path == str(tmp_path / "d" / "a.h5ad")
    assert record.source_name == "d/a.h5ad"
    assert (record.split, record.grid) == ("train", {"pitch_um": 100.0})


def test_a_row_may_set_any_key_of_the_grid_configuration(tmp_path):
    sheet = (
        "slice,path,collisions,force,label,positions,split_by\n"
        "a,d/a.h5ad,first,true,layer,d/p.csv,\nb,b.h5ad,,,,,section\n"
    )
    first, second = read_inputs(write(tmp_path, sheet)).records
    assert first.grid == {"collisions": "first", "force": True, "label": "layer"}
    assert first.positions == str(tmp_path / "d" / "p.csv")
    assert (second.grid, second.split_by, second.positions) == ({}, "section", None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("d/a.h5ad", "a"),
        ("d/a.b.tsv.gz", "a.b"),
        ("sample1/outs", "sample1"),
        ("sample1/", "sample1"),
        ("d/a.zarr", "a"),
    ],
)
def test_a_path_alone_names_its_slice(tmp_path, monkeypatch, path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    if path.endswith((".h5ad", ".gz")):
        (tmp_path / path).touch()
    else:
        (tmp_path / path).mkdir()
    (record,) = read_inputs([path]).records
    assert (record.name, record.path) == (name, path)


def test_results_of_space_ranger_are_published_with_their_sample(tmp_path):
    samples = [tmp_path / name / "outs" for name in "AB"]
    given = read_inputs([str(path) for path in samples]).records
    assert [record.source_name for record in given] == ["A/outs", "B/outs"]
    rows = "".join(f"{path.parent.name},{path}\n" for path in samples)
    listed = read_inputs(write(tmp_path, f"slice,path\n{rows}")).records
    assert [record.source_name for record in listed] == ["A/outs", "B/outs"]


def test_every_problem_of_a_sheet_is_listed_at_once(tmp_path):
    sheet = "slice,path,split,pitch_um\na,x.h5ad,Train!,100\nb,y.h5ad,train\nc,,train,-3\n"
    with pytest.raises(BadInputError) as caught:
        read_inputs(write(tmp_path, sheet))
    rows = [str(problem.where).rsplit(":", 1)[-1] for problem in caught.value.problems]
    assert rows == ["line 2", "line 3", "line 4", "line 4"]


def test_lines_are_those_of_the_file(tmp_path):
    sheet = 'slice,path\n\n"a\nb",x.h5ad\n\n\nc,y.h5ad,z\nd,\n'
    with pytest.raises(BadInputError) as caught:
        read_inputs(write(tmp_path, sheet))
    lines = [str(problem.where).rsplit(":", 1)[-1] for problem in caught.value.problems]
    assert lines == ["line 7", "line 8"]
    with pytest.raises(BadInputError, match=r"s\.csv:line 3.*not CSV"):
        read_inputs(write(tmp_path, 'slice,path\na,x.h5ad\n"b,y.h5ad\n'))


def test_faults_of_the_header_hide_none_of_a_row(tmp_path):
    sheet = "slice,pth,pitch_um\na,x.h5ad,100\nb,y.h5ad,-3\n,z.h5ad,100,7\n"
    with pytest.raises(BadInputError) as caught:
        read_inputs(write(tmp_path, sheet))
    told = [problem.subject for problem in caught.value.problems]
    assert told == ["column 'pth'", "column 'path'", "key 'pitch_um'", "line 4"]


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "1" * 5000], ids=["deep", "digits"])
def test_toml_that_the_parser_gives_up_on_is_refused(tmp_path, value):
    toml = f'name = "x"\nsamples = "s.csv"\nx = {value}\n'
    with pytest.raises(BadInputError, match=r"B111.*not valid TOML"):
        read_inputs(write(tmp_path, "slice,path\n", toml))
    with pytest.raises(BadUsageError, match="unreadable"):
        resolve_given({}, {}, str(tmp_path / "m.toml"), {})


@pytest.mark.parametrize("name", ["a" * 300 + ".csv", "a\\u0000.csv", "."])
def test_a_sheet_that_no_file_can_be_is_missing(tmp_path, name):
    toml = f'name = "x"\nsamples = "{name}"\n'
    with pytest.raises(BadInputError, match=r"B001.*sample sheet"):
        read_inputs(write(tmp_path, "slice,path\n", toml))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        pytest.param("slice,path,doner", "did you mean 'donor'", id="misspelt"),
        pytest.param("slice,path,path", "stands 2 times", id="twice"),
        pytest.param("slice,donor", "column 'path'.*missing", id="missing"),
    ],
)
def test_headers_are_checked(tmp_path, header, message):
    with pytest.raises(BadInputError, match=message):
        read_inputs(write(tmp_path, f"{header}\na,b,c\n"))


def test_unknown_keys_of_the_manifest_come_with_the_nearest_name(tmp_path):
    toml = 'name = "x"\nsample = "s.csv"\nsamples = "s.csv"\n'
    with pytest.raises(BadUsageError, match=r"key 'sample'.*unknown key.*did you mean 'samples'"):
        read_inputs(write(tmp_path, "slice,path\n", toml))


def test_all_tables_of_a_manifest_are_checked_at_once_and_before_any_work(tmp_path):
    toml = (
        'name = "x"\nsamples = "s.csv"\nlicense = "MIT"\n[grid]\nmax_gap = -1\n'
        "[shard]\nwindw = 3\nwindow = 65\nallow = [1]\n"
    )
    with pytest.raises(BadUsageError) as caught:
        read_inputs(write(tmp_path, "slice,path\na,a.h5ad\n", toml))
    told = [(problem.subject, problem.where) for problem in caught.value.problems]
    path = tmp_path / "m.toml"
    assert told == [
        ("key 'license'", str(path)),
        ("key 'max_gap'", f"{path}: [grid]"),
        ("key 'window'", f"{path}: [shard]"),
        ("key 'allow.0'", f"{path}: [shard]"),
        ("key 'windw'", f"{path}: [shard]"),
    ]
    assert caught.value.problems[-1].fix == "did you mean 'window'?"


@pytest.mark.parametrize(
    "table",
    ["cover = 8", "cover = 32", 'assign = "donor"\ntest_share = 0', "allow = []"],
    ids=["evaluation", "stride_for_a_larger_window", "shares_for_a_flag", "no_leaks"],
)
def test_what_flags_may_complete_is_no_fault_of_a_manifest(tmp_path, table):
    toml = f'name = "x"\nsamples = "s.csv"\n[shard]\n{table}\n'
    assert read_inputs(write(tmp_path, "slice,path\na,a.h5ad\n", toml)).shard


@pytest.mark.parametrize("sheet", ["", "slice,path\n"], ids=["empty", "header_only"])
def test_an_empty_sheet_is_refused(tmp_path, sheet):
    with pytest.raises(BadInputError):
        read_inputs(write(tmp_path, sheet))


def test_clashing_ids_are_named_in_pairs(tmp_path):
    sheet = "slice,path\nV1.2,a.h5ad\nv1-2,b.h5ad\nx,c.h5ad\nx,d.h5ad\n"
    with pytest.raises(BadInputError) as caught:
        read_inputs(write(tmp_path, sheet))
    assert len(caught.value.problems) == 2
    assert "both become 'v1-2'" in str(caught.value)
    assert "the same id" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("V1.2", "v1-2"),
        ("a/b c", "a-b-c"),
        ("Gehirn_Größe", "gehirn-groe"),
        ("con", "s-con"),
        ("$(rm -rf)", "rm-rf"),
        ("{0..9}", "0-9"),
    ],
)
def test_slugs(name, slug):
    assert slugify(name) == slug


def test_ids_without_ascii_or_too_long_stay_apart():
    assert slugify("脳") != slugify("心")
    long = [slugify("x" * 90 + end) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 64


def test_bad_keys_are_told_where_they_were_given(tmp_path):
    (tmp_path / "c.toml").write_text("max_gap = 0\nbin_um = -1\n")
    said = {"layot": "rank", "max_gap": 3}
    with pytest.raises(BadUsageError) as caught:
        resolve_config(
            GridConfig, {}, said, str(tmp_path / "c.toml"), {"bin_um": -2.0}, place="m.toml: [grid]"
        )
    assert {problem.subject: problem.where for problem in caught.value.problems} == {
        "key 'layot'": "m.toml: [grid]",
        "key 'max_gap'": str(tmp_path / "c.toml"),
        "key 'bin_um'": "command line",
    }


@pytest.mark.parametrize("line", ["window = true", "seed = false", "min_fill = true"])
def test_true_is_no_number(tmp_path, line):
    (tmp_path / "c.toml").write_text(f"{line}\nstrict_size = true\n")
    with pytest.raises(BadUsageError) as caught:
        resolve_config(ShardConfig, {}, {}, str(tmp_path / "c.toml"), {})
    (problem,) = caught.value.problems
    assert problem.subject == f"key '{line.partition(' ')[0]}'"


@pytest.mark.parametrize(
    ("manifest", "file", "flags", "patches"),
    [
        pytest.param({}, "", {}, 200, id="training-by-default"),
        pytest.param({}, "cover = 8", {}, None, id="cover-beside-the-default"),
        pytest.param({"n_per_slice": 5}, "cover = 8", {}, None, id="cover-said-later"),
        pytest.param({"n_per_slice": 5}, "", {"cover": 8}, None, id="cover-said-by-a-flag"),
        pytest.param({}, "cover = 8\nn_per_slice = 5", {}, "both", id="both-in-one-file"),
        pytest.param({"cover": 8}, "n_per_slice = 5", {}, "both", id="patches-said-later"),
        pytest.param({}, "", {"cover": 8, "n_per_slice": 5}, "both", id="both-by-flags"),
    ],
)
def test_training_or_evaluation_is_what_was_said_last(tmp_path, manifest, file, flags, patches):
    (tmp_path / "c.toml").write_text(file)
    given = (ShardConfig, dict[str, Any](), manifest, str(tmp_path / "c.toml"), flags)
    if patches == "both":
        with pytest.raises(BadUsageError, match="not both"):
            resolve_config(*given)
    else:
        assert resolve_config(*given).n_per_slice == patches


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_sheet_with_other_marks_is_told_once(tmp_path, mark, name):
    sheet = "slice,path,donor\na,a.h5ad,1\nb,b.h5ad,2\n".replace(",", mark)
    with pytest.raises(BadInputError) as caught:
        read_inputs(write(tmp_path, sheet))
    (problem,) = caught.value.problems
    assert name in problem.what
