"""Outputs never land where they would spoil what is finished."""

import pytest

from stbuild.corpus.errors import BadUsageError, ConflictError
from stbuild.corpus.outputs import refuse_foreign, refuse_inside


@pytest.mark.parametrize("name", ["corpus.json", "zarr.json"])
@pytest.mark.parametrize("below", ["x.png", "runs/one"])
def test_nothing_is_written_into_what_is_whole(tmp_path, monkeypatch, name, below):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / name).write_text("{}")
    out = tmp_path / "whole" / below
    with pytest.raises(BadUsageError, match=r"B102.*whole, which is a "):
        refuse_inside(out)
    with pytest.raises(BadUsageError, match="B102"):
        refuse_foreign(out, "run", mark=lambda _: False)
    monkeypatch.chdir(tmp_path / "whole")
    with pytest.raises(BadUsageError, match="B102"):
        refuse_inside(out.relative_to(tmp_path / "whole"))
    refuse_inside(tmp_path / "whole.png")
    refuse_inside(tmp_path / "whole")


def test_a_folder_of_others_gets_no_company(tmp_path):
    (tmp_path / "theirs.txt").write_text("x")
    with pytest.raises(ConflictError, match="first: theirs"):
        refuse_foreign(tmp_path, "run", mark=lambda _: False)
