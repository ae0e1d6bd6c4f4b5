"""Folders that are read-only, vanish, hold something else, or that twenty runs want at once."""

import re
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.intake import take_in
from stbuild.reading.opening import read_here
from tests.faults.lab import COMMANDS, MADE
from tests.faults.test_full_disk import remount, small_disk
from tests.slices import Spec, record_of, write_slice

pytestmark = pytest.mark.dist
STARTS = 20


def states(root):
    """Return what a file system tells of everything below a folder, but when it was read."""
    listed = {path: path.lstat() for path in (root, *sorted(root.rglob("*")))}
    return {p: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for p, s in listed.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_told(lab, tmp_path, name):
    with small_disk(tmp_path / "small", "size=64m") as place:
        remount(place, "ro")
        job = lab.start(name, place)
        assert job.wait(120) == [7], job.text()
        assert re.search(r"error\[P05\].*cannot be written: Read-only file system.*fix", job.text())
        assert str(place) in job.text()
        assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "shard", "cover", "publish"])
def test_a_finished_folder_is_not_touched_and_may_be_read_only(lab, tmp_path, name):
    with small_disk(tmp_path / "small", "size=64m") as place:
        lab.run(name, place)
        remount(place, "ro")
        before = states(place)
        lab.run(name, place)
        assert states(place) == before


def vanish(lab, name, out, delay):
    """Take the output away in the middle; return the exit code and what was said."""
    out.mkdir()
    job = lab.start(name, out)
    if not job.ended_within(delay):
        with suppress(FileNotFoundError):  # at once, as a disk does: what is written then is new
            (out / MADE[name]).rename(out.with_suffix(".away"))
        return job.wait(120), job.text()
    return [0], job.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "embed"])
def test_a_folder_that_vanishes_is_told_or_made_whole(lab, tmp_path, name):
    rng = np.random.default_rng(3)
    for number in range(8):
        out = tmp_path / str(number)
        delay = lab.seconds[name] * (number + float(rng.random())) / 8
        (code,), said = vanish(lab, name, out, delay)
        assert "Traceback" not in said
        assert "E001" not in said
        assert code in (0, 3, 5, 6, 7), said
        if code:
            assert "error[" in said
        lab.check_part(name, out)
        lab.run(name, out)
        lab.check_whole(name, out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "shard", "publish", "fit"])
def test_of_twenty_starts_at_once_one_works(lab, tmp_path, name):
    jobs = [lab.start(name, tmp_path, broken="write_slowly") for _ in range(STARTS)]
    numbers = [job.numbers[0] for job in jobs]
    codes = [job.wait()[0] for job in jobs]
    assert sorted(codes) == [0] + [5] * (STARTS - 1), "\n".join(job.text() for job in jobs)
    winner = numbers[codes.index(0)]
    for job, code in zip(jobs, codes, strict=True):
        if code == 5:
            assert f"process {winner} on " in job.text()
            assert re.search(r", since \d{4}-\d\d-\d\dT", job.text())
    lab.check_whole(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "probe", "bench"])
def test_results_may_be_made_by_several_at_once(lab, tmp_path, name):
    jobs = [lab.start(name, tmp_path) for _ in range(4)]
    assert [job.wait()[0] for job in jobs] == [0] * 4, "\n".join(job.text() for job in jobs)
    lab.check_whole(name, tmp_path)


@pytest.mark.slow
def test_a_lock_that_was_just_given_up_is_not_held_twice(lab, tmp_path):
    """Starts that follow each other while runs end: never two at work, and all end well."""
    jobs = []
    for _ in range(12):
        jobs.append(lab.start("shard", tmp_path))
        time.sleep(lab.seconds["shard"] / 6)
    codes = [job.wait()[0] for job in jobs]
    assert set(codes) <= {0, 5}, "\n".join(job.text() for job in jobs)
    for job, code in zip(jobs, codes, strict=True):
        assert code == 0 or "another run holds it" in job.text()
    lab.check_whole("shard", tmp_path)


OTHER = {
    "compact": ["--label", "array_row"],
    "shard": ["--genes", "12"],
    "cover": ["--genes", "12"],
    "publish": ["--title", "another"],
    "fit": ["--seed", "5"],
}


def _but_locks(found):
    return {p: s for p, s in found.items() if p.name not in (".lock", ".holder.json", "run")}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_a_folder_of_another_configuration_is_not_touched(lab, tmp_path, name):
    lab.run(name, tmp_path)
    before = states(tmp_path)
    job = lab.start(name, tmp_path, *OTHER[name])
    assert job.wait() == [5], job.text()
    assert _but_locks(states(tmp_path)) == _but_locks(before)
    lab.check_whole(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "embed"])
def test_a_folder_of_somebody_else_is_not_touched(lab, tmp_path, name):
    made = tmp_path / MADE[name]
    made.mkdir()
    (made / "thesis.txt").write_text("ten years")
    before = states(made)
    job = lab.start(name, tmp_path)
    assert job.wait() == [5], job.text()
    assert states(made) == before


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_slice(tmp_path / "s.h5ad", Spec(rows=8, cols=8))
    config = GridConfig(label="label", pitch_um=100.0)
    read_here(record_of(path), config)

    def append(*arguments):
        with Path(path).open("ab") as file:
            file.write(b"\0")
        return take_in(*arguments)

    monkeypatch.setattr("stbuild.reading.opening.take_in", append)
    with pytest.raises(BadInputError, match=r"B012.*s\.h5ad changed while it was read"):
        read_here(record_of(path), config)
