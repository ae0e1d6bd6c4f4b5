"""Every bad file of the trainer's zoo, through the command line: its code, and nothing left."""

import re
import sys

import pytest

from sttrain import cli
from tests.zoo.trainer import CASES, EVALUATION, JUDGE, SCORE, Case, predictions, read_spots, table

MESSAGE = re.compile(r"error\[[A-Z]\d{2,3}\] .+: .+\. fix: .+")


@pytest.fixture(scope="module")
def spots():
    return read_spots()


def run(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Run one command in this process; return its exit code and what stands on stderr."""
    monkeypatch.setattr(sys, "argv", ["sttrain", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err


def words_of(case: Case, path, out) -> list[str]:
    return [word.format(file=path, out=out) for word in case.command]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_case(case: Case, spots, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / f"{case.name}{case.suffix}", tmp_path / "out"
    case.make(path, spots)
    code, text = run(monkeypatch, capsys, *words_of(case, path, out))
    assert code == case.exit_code, text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("error[")]
    assert lines
    assert all(MESSAGE.fullmatch(line) for line in lines), lines
    assert any(re.search(rf"error\[{case.code}\d*\].*{case.match}", line) for line in lines), text
    assert not [p for p in sorted(out.rglob("*")) if p.is_file()] if out.exists() else True


def test_the_files_are_good_where_nothing_is_changed(spots, tmp_path, monkeypatch, capsys):
    """Else the cases would be refused for something that they all share."""
    table()(tmp_path / "good.parquet", spots)
    words = ("probe", str(EVALUATION), "--embedding", f"x={tmp_path}/good.parquet", *JUDGE)
    done = run(monkeypatch, capsys, *(word.format(out=tmp_path / "p") for word in words))
    assert done[0] == 0, done[1]
    predictions(lambda rows: rows)(tmp_path / "good.csv", spots)
    scored = (word.format(file=tmp_path / "good.csv", out=tmp_path / "s") for word in SCORE)
    done = run(monkeypatch, capsys, *scored)
    assert done[0] == 0, done[1]
