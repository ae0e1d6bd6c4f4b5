"""Killed anywhere, run again: the same bytes. Any number of workers: the same bytes."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.workspace import hold_folder
from tests.stbuild.broken import CRASHING, DAMAGED, ELSEWHERE
from tests.stbuild.environments import ALONE, SORTED, TOGETHER, Environment, why_not
from tests.trees import tree_digests

ROOT = Path(__file__).parents[2]
SHARD = ["--window", "8", "--genes", "16", "--n-per-slice", "40", "--samples-per-shard", "13"]


def steps(files, root):
    """The two commands of a build into `root`."""
    program = [sys.executable, "-m", "stbuild"]
    yield [*program, "compact", *map(str, files), "-o", str(root / "grids"), "--label", "label"]
    yield [*program, "shard", str(root / "grids"), "-o", str(root / "corpus"), *SHARD]


def run_all(files, root, *flags):
    for step in steps(files, root):
        subprocess.run([*step, *flags], check=True, capture_output=True)


@pytest.fixture(scope="module")
def reference(slice_files, tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    began = time.monotonic()
    run_all(slice_files, root)
    return tree_digests(root), time.monotonic() - began


def kill_once(files, root, delay):
    """Start the build and kill its process group after `delay` seconds; say if it was running."""
    deadline = time.monotonic() + delay
    for step in steps(files, root):
        child = subprocess.Popen(
            step, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
    return False


def check_kills(files, tmp_path, reference, n_kills, seed):
    digests, seconds = reference
    rng = np.random.default_rng(seed)
    for number in range(n_kills):
        root, delay = tmp_path / str(number), float(rng.uniform(0.2, seconds))
        root.mkdir()
        # The machine may be quicker now than it was for the reference: then sooner.
        while not kill_once(files, root, delay):
            shutil.rmtree(root)
            root.mkdir()
            delay /= 2
        corpus = root / "corpus" / "corpus.json"
        assert not corpus.exists() or tree_digests(root / "corpus")
        run_all(files, root)
        assert tree_digests(root) == digests
        assert not list(root.rglob("*.partial-*"))


@pytest.mark.slow  # tests.faults.test_kills has a few for every run
def test_killed_twenty_times_a_rerun_gives_the_same_bytes(slice_files, tmp_path, reference):
    check_kills(slice_files, tmp_path, reference, n_kills=20, seed=2)


def check_crash_points(files, tmp_path, reference, stride, *, broken=None, damage=False):
    commands = [step[3:] for step in steps(files, Path("{root}"))]
    task = {
        "root": str(tmp_path),
        "stride": stride,
        "commands": commands,
        "digests": reference[0],
        "broken": broken,
        "damage": damage,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.stbuild.crash_harness"],
        cwd=ROOT,
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    return found["points"]


def test_dying_at_sampled_file_system_events_loses_nothing(slice_files, tmp_path, reference):
    assert check_crash_points(slice_files, tmp_path, reference, stride=13) > 20


@pytest.mark.slow
def test_dying_at_every_file_system_event_loses_nothing(slice_files, tmp_path, reference):
    assert check_crash_points(slice_files, tmp_path, reference, stride=1) > 300


def test_what_a_disk_lost_in_a_crash_is_written_again(slice_files, tmp_path, reference):
    assert check_crash_points(slice_files, tmp_path, reference, stride=59, damage=True) > 5


BROKEN = {
    "write_in_place": "compact ended with 1 after a crash",  # half a document, refused for ever
    "write_the_mark_first": "shard ended with 1 after a crash",  # finished, and files are missing
    "draw_by_process": "-1",
    "skip_if_exists": "shard ended with 1 after a crash",  # its samples are not those of the record
}


@pytest.mark.parametrize("broken", sorted(CRASHING | DAMAGED))
def test_a_build_that_is_broken_on_purpose_is_noticed(slice_files, tmp_path, reference, broken):
    how = {"broken": broken, "damage": broken in DAMAGED}
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_crash_points(slice_files, tmp_path, reference, stride=1, **how)


def damage_a_grid(files, root):
    """Compact, cut a chunk short, compact again; say whether the grid is whole."""
    run_first(files[:1], root)
    grid = next((root / "grids").glob("*.zarr"))
    largest = max((p for p in grid.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[:-9] + bytes(9))
    compact(read_inputs([str(files[0])]), GridConfig(label="label"), root / "grids", run_loop)
    return largest.read_bytes() == whole


def test_a_damaged_grid_is_written_again_unless_it_is_trusted(slice_files, tmp_path, monkeypatch):
    assert damage_a_grid(slice_files, tmp_path / "checked")
    monkeypatch.setattr("stbuild.grid.compact.check_grid", lambda _: [])
    assert not damage_a_grid(slice_files, tmp_path / "trusted")


@pytest.mark.dist
def test_two_workers_give_the_same_bytes(slice_files, tmp_path, reference):
    run_all(slice_files, tmp_path, "-j", "2")
    assert tree_digests(tmp_path) == reference[0]


@pytest.mark.dist
def test_a_separate_scheduler_gives_the_same_bytes(slice_files, tmp_path, reference):
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
         "--port", "0", "--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
         str(tmp_path / "scheduler.json"), "--nworkers", "2", "--nthreads", "1", "--no-dashboard",
         "--local-directory", str(tmp_path / "dask")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = wait_for_address(tmp_path / "scheduler.json")
        run_all(slice_files, tmp_path / "out", "--scheduler", address)
        assert tree_digests(tmp_path / "out") == reference[0]
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(timeout=30)


def wait_for_address(path: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.is_file() and (found := re.search(r"tcp://[\d.]+:\d+", path.read_text())):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError("the scheduler did not start")


def check_environment(files, tmp_path, reference, environment):
    if reason := why_not(environment):
        pytest.skip(f"no such environment here: {reason}")
    root = tmp_path / "out" / "/".join(["folder-with-a-long-name"] * environment.deep)
    root.mkdir(parents=True)
    for step in steps(files, root):
        environment.run(step, tmp_path)
    assert tree_digests(root) == reference[0]


@pytest.mark.parametrize("name", TOGETHER)
def test_the_environment_changes_nothing(slice_files, tmp_path, reference, name):
    check_environment(slice_files, tmp_path, reference, TOGETHER[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_nothing_of_the_environment_changes_anything(slice_files, tmp_path, reference, name):
    check_environment(slice_files, tmp_path, reference, ALONE[name])


TOLD_BY = {
    "take_slices_as_listed": ALONE["turned listings"],
    "take_genes_as_hashed": ALONE["hash seed"],
    "stamp_members": ALONE["2099"],
}


@pytest.mark.parametrize("broken", sorted(ELSEWHERE))
def test_a_build_that_its_environment_changes_is_noticed(
    slice_files, tmp_path, monkeypatch, broken
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here = Environment({"PYTHONHASHSEED": "1"} | SORTED)
    found = []
    for number, environment in enumerate((here, TOLD_BY[broken])):
        root = tmp_path / str(number)
        root.mkdir()
        for step in steps(slice_files, root):
            program = [sys.executable, "-m", "tests.stbuild.broken", broken]
            environment.run([*program, *step[3:]], tmp_path)
        found.append(tree_digests(root))
    assert found[0] != found[1]


def test_the_environments_are_what_they_say(tmp_path):
    """Else nothing could differ, and no test would show it."""
    for name in "abc":
        (tmp_path / name).touch()
    west = TOGETHER["west"]
    code = (
        "import os, time, pathlib; folder = pathlib.Path(os.environ['SEEN']);"
        "seen = [os.listdir(folder), [e.name for e in os.scandir(folder)], int(time.time())];"
        "(folder / 'seen').write_text(repr(seen))"
    )
    seen = replace(west, variables={**west.variables, "SEEN": str(tmp_path)})
    seen.run([sys.executable, "-c", code], tmp_path)
    listed, scanned, now = ast.literal_eval((tmp_path / "seen").read_text())
    assert listed == scanned == ["shim", "c", "b", "a"]
    assert 1000 <= now < 1100
    assert (tmp_path / "seen").stat().st_mode & 0o777 == 0o666


def test_a_second_builder_is_refused_while_the_first_holds_the_folder(slice_files, tmp_path):
    with hold_folder(tmp_path / "grids"):
        step = next(iter(steps(slice_files, tmp_path)))
        done = subprocess.run(step, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert f"process {os.getpid()}" in done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_exits_with_143_and_a_rerun_finishes(slice_files, tmp_path, reference, number):
    *_, shard = run_first(slice_files, tmp_path)
    child = subprocess.Popen(shard, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "corpus" / ".work").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    if child.returncode != 0:  # it may have finished first
        assert child.returncode == 143, err
        assert "run the same command again" in err
    run_all(slice_files, tmp_path)
    assert tree_digests(tmp_path) == reference[0]


def run_first(files, root):
    commands = list(steps(files, root))
    subprocess.run(commands[0], check=True, capture_output=True)
    return commands
