"""Every command that writes, killed at random moments: no half file, and a rerun ends alike."""

import shutil
import signal
import time

import numpy as np
import pytest

from tests.faults.lab import COMMANDS

pytestmark = pytest.mark.dist
N_KILLS = [
    pytest.param(1, id="once"),
    pytest.param(25, id="25-times", marks=pytest.mark.slow),
]
"""25 of each of eight commands: 200."""


def kill_within(lab, name, out, delay, broken=None):
    """Start a command and kill its process group after `delay`; say whether it still ran."""
    out.mkdir()
    job = lab.start(name, out, broken=broken)
    if job.ended_within(delay):
        return False
    job.send_group(signal.SIGKILL)
    return job.wait() == [-signal.SIGKILL]


def check_kills(lab, name, folder, n_kills, seed=0, broken=None, seconds=None):
    rng = np.random.default_rng(seed)
    for number in range(n_kills):
        out = folder / str(number)
        # Spread over the whole run; sooner, where the machine has become quicker.
        delay = (seconds or lab.seconds[name]) * float(number + rng.random()) / n_kills
        while not kill_within(lab, name, out, delay, broken):
            shutil.rmtree(out)
            delay *= 0.7
        lab.check_part(name, out)
        lab.run(name, out, broken=broken)
        lab.check_whole(name, out)
        shutil.rmtree(out)


@pytest.mark.parametrize("n_kills", N_KILLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_a_rerun_ends_alike(lab, tmp_path, name, n_kills):
    check_kills(lab, name, tmp_path, n_kills, seed=n_kills)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "bench", "publish"])
def test_files_that_grow_under_their_final_names_are_noticed(lab, tmp_path, name):
    began = time.monotonic()
    (tmp_path / "whole").mkdir()
    lab.run(name, tmp_path / "whole", broken="write_in_place")
    seconds = time.monotonic() - began  # what is broken takes longer than what is not
    with pytest.raises(AssertionError):
        check_kills(lab, name, tmp_path, 40, broken="write_in_place", seconds=seconds)
