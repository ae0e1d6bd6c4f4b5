"""Every bad file of the zoo, through the command line: exit code, message, nothing published."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stbuild import cli
from tests.zoo.make_zoo import CANARY, CASES, Case, path_of, write_zoo

MESSAGE = re.compile(
    r"error\[[A-Z]\d{2,3}\] (slice|inputs|manifest) ?('.*')?( \(.+\))?: .+\. fix: .+", re.ASCII
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    write_zoo(root)
    return root


def published(out: Path) -> list[str]:
    """Return what a build has published: everything but its scratch folder."""
    found = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    return [str(p) for p in found if p.parts[0] != ".work"]


def compact(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Run ``stbuild compact`` in this process; return its exit code and what stands on stderr."""
    monkeypatch.setattr(sys, "argv", ["stbuild", "compact", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_case(case: Case, zoo, tmp_path, monkeypatch, capsys):
    path, out = path_of(case, zoo), tmp_path / "out"
    code, text = compact(monkeypatch, capsys, str(path), "-o", str(out), *case.arguments)
    assert code == case.exit_code, text
    assert "Traceback" not in text
    assert not set(text) & set("\x1b\x00\r")
    if code == 0:
        assert "grids.json" in published(out)
        if case.code:
            assert re.search(rf"warning\[({case.code})\] .*{case.match}", text.replace("\n", " "))
        return
    lines = text.splitlines()
    assert 0 < len(lines) <= 3
    assert all(MESSAGE.fullmatch(line) for line in lines), lines
    assert re.search(rf"error\[({case.code}).*{case.match}", text), text
    assert not published(out)


def test_all_bad_files_are_named_at_once_and_the_good_ones_can_be_kept(zoo, tmp_path):
    refused = [case for case in CASES if case.exit_code == 3]
    bad = [case for case in refused if not case.arguments and not case.file]
    fine = [case for case in CASES if case.name in ("one_spot", "beyond_16_bits")]
    paths = [path_of(case, zoo) for case in bad + fine]
    command: list[str | Path] = [Path(sys.executable).with_name("stbuild"), "compact", *paths, "-o"]
    done = subprocess.run(
        [*command, tmp_path / "stop"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 3
    named = set(re.findall(r"(?m)^error\[\w+\] slice '(\w+)'", done.stderr))
    assert named == {case.name for case in bad}
    assert "grids.json" not in published(tmp_path / "stop")
    kept = subprocess.run(
        [*command, tmp_path / "skip", "--on-bad", "skip"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert kept.returncode == 4
    assert "2 grids" in kept.stdout
    assert CANARY not in b"".join(
        p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()
    )


def test_the_zoo_is_the_same_in_every_run(zoo, tmp_path):
    """Files that say what is wrong must not differ from machine to machine."""
    for name, path in write_zoo(tmp_path).items():
        # h5py cannot be told to leave the time out of a virtual dataset.
        if path.is_file() and name != "virtual_dataset":
            twin = zoo / path.relative_to(tmp_path)
            first, second = (hashlib.sha256(p.read_bytes()).digest() for p in (path, twin))
            assert first == second, name
