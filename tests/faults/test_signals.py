"""SIGINT, SIGTERM, SIGUSR1 at random moments, once, twice: a code, a line, a rerun ends alike."""

import signal
import time

import numpy as np
import pytest

from tests.faults.lab import COMMANDS

pytestmark = [pytest.mark.dist, pytest.mark.slow]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
N_SIGNALS = 5


def signal_within(lab, name, out, delay, what, *, twice):
    """Signal a command after `delay`; return its exit code, what it said, and how long it took."""
    out.mkdir()
    job = lab.start(name, out)
    while not job.outputs[0].exists():  # a process on its way is no program yet
        time.sleep(0.005)
    if job.ended_within(0.05 + delay):
        return 0, job.text(), 0.0
    began = time.monotonic()
    # SLURM gives notice to every process of a step.
    send = job.send_group if what == signal.SIGUSR1 else job.send
    send(what)
    if twice and not job.ended_within(0.02):
        send(what)
    return job.wait(60)[0], job.text(), time.monotonic() - began


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("what", CODES)
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_end_a_command_in_words_and_a_rerun_ends_alike(lab, tmp_path, name, what, twice):
    rng = np.random.default_rng([list(CODES).index(what), twice])
    for number in range(N_SIGNALS):
        out = tmp_path / str(number)
        delay = lab.seconds[name] * (number + float(rng.random())) / N_SIGNALS
        code, said, seconds = signal_within(lab, name, out, delay, what, twice=twice)
        if code == -what:  # it came before the program listened: nothing was begun
            assert list(out.iterdir()) == []
            assert delay < 0.5
            continue
        assert code in (0, CODES[what]), said
        assert "Traceback" not in said
        assert "E001" not in said
        assert seconds < 20
        if code:
            assert "run the same command again" in said
        if name != "fit":  # which saves a checkpoint where it stands
            lab.check_part(name, out)
        lab.run(name, out, *(["--keep", "2"] if name == "fit" else []))
        if name != "fit":
            lab.check_whole(name, out)
