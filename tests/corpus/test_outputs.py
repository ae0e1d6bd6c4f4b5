"""Output folders: new, empty or ours, else left alone in one wording."""

import pytest

from stbuild.corpus.errors import BadUsageError, ConflictError
from stbuild.corpus.outputs import refuse_foreign, refuse_inside


def ask(out, **more):
    refuse_foreign(out, "corpus", mark=lambda path: path.name == "mark", **more)


def fill(out, *names):
    out.mkdir()
    for name in names:
        (out / name).write_text("")
    return out


@pytest.mark.parametrize("names", [(), ("mark",), ("mark", "thesis.tex")], ids=str)
def test_empty_folders_and_those_with_a_mark_are_taken(tmp_path, names):
    ask(fill(tmp_path / "out", *names))
    ask(tmp_path / "new")


def test_others_are_refused_in_one_wording(tmp_path):
    out = fill(tmp_path / "out", *"gfedcba")
    with pytest.raises(ConflictError) as caught:
        ask(out)
    assert str(caught.value) == (
        f"error[B097] output 'out' ({out}): it holds 7 other files and no corpus (first: a, b, c, "
        "d, e). fix: choose an empty or new -o folder"
    )
    assert caught.value.exit_code == 5


def test_leftovers_do_no_harm_and_are_not_named(tmp_path):
    out = fill(tmp_path / "out", "left")
    ask(out, leftover=lambda path: path.name == "left")
    (out / "mine").write_text("")
    with pytest.raises(ConflictError, match=r"T03. run 'out'.*1 other files .*first: mine\)"):
        ask(out, leftover=lambda path: path.name == "left", code="T03", thing="run")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mark")
    with pytest.raises(ConflictError, match=r"B097.*it is not a folder"):
        ask(tmp_path / "out")


def test_folders_without_a_file_do_no_harm(tmp_path):
    """A folder that was taken away under a run may come back as the folders of its next file."""
    (tmp_path / "out" / "data" / "train").mkdir(parents=True)
    ask(tmp_path / "out")
    (tmp_path / "out" / "data" / "train" / "x").write_text("")
    with pytest.raises(ConflictError, match=r"first: data\)"):
        ask(tmp_path / "out")


def test_a_link_is_somebodys(tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "more").symlink_to(tmp_path)
    with pytest.raises(ConflictError, match=r"first: data\)"):
        ask(tmp_path / "out")


@pytest.mark.parametrize("name", ["corpus.json", "zarr.json"])
@pytest.mark.parametrize("below", ["x.png", "runs/one"])
def test_nothing_is_written_into_what_is_whole(tmp_path, monkeypatch, name, below):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / name).write_text("{}")
    out = tmp_path / "whole" / below
    with pytest.raises(BadUsageError, match=r"B102.*whole, which is a "):
        refuse_inside(out)
    with pytest.raises(BadUsageError, match="B102"):
        ask(out)
    monkeypatch.chdir(tmp_path / "whole")
    with pytest.raises(BadUsageError, match="B102"):
        refuse_inside(out.relative_to(tmp_path / "whole"))
    refuse_inside(tmp_path / "whole.png")
    refuse_inside(tmp_path / "whole")
