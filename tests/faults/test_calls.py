"""Calls of the system that fail, come short or lie, at many places of every command (P05-P07)."""

import errno
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest

from tests.faults.calls import Fault, compiled, counted, unsafe_renames
from tests.faults.lab import COMMANDS, make_lab
from tests.sttrain.processes import Starter

pytestmark = [pytest.mark.dist, pytest.mark.slow]
FAULTS = {
    "write-EIO": Fault("write", errno.EIO),
    "write-ENOSPC": Fault("write", errno.ENOSPC, lasting=True),
    "write-EDQUOT": Fault("write", errno.EDQUOT),
    "write-EINTR": Fault("write", errno.EINTR),
    "write-short": Fault("write", 0),
    "fsync-EIO": Fault("fsync", errno.EIO),
    "rename-EXDEV": Fault("rename", errno.EXDEV),
    "close-EIO": Fault("close", errno.EIO),
    "read-EIO": Fault("read", errno.EIO),
    "read-ESTALE": Fault("read", errno.ESTALE, lasting=True),
}
LIE = Fault("write", -1)
MENDED = ("write-EINTR", "write-short")
"""What every command gets over by itself."""
N_PLACES = {"compact": 10, "shard": 10, "publish": 10}
"""Of each fault; 4 of the other commands."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A laboratory whose processes can be hurt."""
    library = compiled(tmp_path_factory.mktemp("library"))
    if isinstance(library, str):
        pytest.skip(f"calls cannot be hurt here: {library}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        starter = Starter("tests.faults.server")
    try:
        yield make_lab(tmp_path_factory.mktemp("lab"), starter)
    finally:
        starter.close()


def hurt(lab, name, folder, fault, at, broken=None):
    """Run a command with one fault; return its exit code and what it said."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    # What is read lies outside of what is written.
    root = lab.root.parent if fault.call == "read" else out
    given = fault.environment(root, folder, at)
    job = lab.start(name, out, broken=broken, environment=given)
    (code,) = job.wait(120)
    return code, job.text()


def n_calls(lab, name, folder, fault):
    """Return how many such calls the command makes."""
    assert hurt(lab, name, folder, fault, 0)[0] == 0
    total = counted(folder)
    assert total, f"no calls of {fault.call}"
    return total


def places(lab, name, folder, fault):
    """Return numbers of calls, spread over all that the command makes."""
    total = n_calls(lab, name, folder, fault)
    rng = np.random.default_rng(total)
    n_places = min(total, N_PLACES.get(name, 4))
    edges = np.linspace(0, total, n_places + 1)
    return [1 + int(rng.uniform(a, b)) for a, b in pairwise(edges)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_that_fails_is_told_and_a_rerun_ends_alike(lab, tmp_path, name, fault):
    for at in places(lab, name, tmp_path, FAULTS[fault]):
        code, said = hurt(lab, name, tmp_path, FAULTS[fault], at)
        where = f"{fault} at {at}: exit {code}\n{said}"
        assert "Traceback" not in said, where
        assert "E001" not in said, where
        bad = (3, 6) if FAULTS[fault].call == "read" else ()  # what is read cannot be trusted
        assert code in ((0,) if fault in MENDED else (0, 7, 8, *bad)), where
        assert code == 0 or "error[" in said, where
        lab.check_part(name, tmp_path / "out")
        lab.run(name, tmp_path / "out")
        lab.check_whole(name, tmp_path / "out")


def check_lies(lab, name, folder, numbers, broken=None):
    """A write that says it is done and lost its bytes never ends in a wrong result."""
    for at in numbers:
        code, said = hurt(lab, name, folder, LIE, at, broken)
        assert code in (0, 6, 7), f"write {at}: exit {code}\n{said}"
        if code == 0:
            lab.check_whole(name, folder / "out")
        lab.run(name, folder / "out")
        lab.check_whole(name, folder / "out")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_lies_is_found_by_reading_back(lab, tmp_path, name):
    check_lies(lab, name, tmp_path, places(lab, name, tmp_path, LIE))


@pytest.mark.parametrize("name", ["compact", "shard", "publish"])
def test_what_is_not_read_back_is_noticed(lab, tmp_path, name):
    total = n_calls(lab, name, tmp_path, LIE)
    # Scratch, which is checked when it is used, comes first.
    last = range(max(total - 20, 0), total)
    with pytest.raises(AssertionError):
        check_lies(lab, name, tmp_path, [1 + i for i in last], broken="never_read_back")


def renames_of(lab, name, folder, broken=None):
    """Return what a power cut could take from a command that has ended."""
    out, log = folder / "out", folder / "log"
    out.mkdir()
    job = lab.start(
        name, out, broken=broken, environment={"FAULT_ROOT": str(out), "FAULT_LOG": str(log)}
    )
    assert job.wait() == [0], job.text()
    lines = log.read_text().splitlines()
    assert any(line.startswith("rename\t") for line in lines)
    return list(unsafe_renames(lines))


@pytest.mark.parametrize("name", COMMANDS)
def test_files_are_flushed_before_their_rename_and_folders_after(lab, tmp_path, name):
    assert renames_of(lab, name, tmp_path) == []


def test_what_is_never_flushed_is_noticed(lab, tmp_path):
    assert renames_of(lab, "shard", tmp_path, broken="never_flush")


def test_the_library_does_what_it_says(lab, tmp_path):
    """Else nothing would have failed, and no test would show it."""
    assert "LD_PRELOAD" not in os.environ
    for fault, codes in {"fsync-EIO": {7}, "write-ENOSPC": {7}, "rename-EXDEV": {7}}.items():
        assert hurt(lab, "shard", tmp_path, FAULTS[fault], 3)[0] in codes
