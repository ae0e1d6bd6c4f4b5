"""Runners: order kept, errors collected, dead workers named."""

import os
import signal
from dataclasses import dataclass

import psutil
import pytest

from stbuild.corpus.errors import BadInputError, Problem, RemoteError
from stbuild.pipeline import open_runner, run_loop


@dataclass(frozen=True)
class Job:
    """A task with a name, as the real ones have."""

    name: str
    number: int


def work(job):
    """Double, refuse 2, die on -1."""
    if job.number == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.number == 2:
        raise BadInputError(Problem(code="B000", subject=job.name, what="no twos", fix="drop it"))
    return 2 * job.number


def test_a_loop_tries_every_task_and_keeps_the_order():
    ticks = []
    outcomes = run_loop(work, [Job(str(i), i) for i in range(4)], lambda: ticks.append(1))
    assert [outcome.result for outcome in outcomes] == [0, 2, None, 6]
    assert isinstance(outcomes[2].error, BadInputError)
    assert len(ticks) == 4


@pytest.mark.dist
def test_local_processes_give_the_outcomes_of_a_loop():
    jobs = [Job(str(i), i) for i in range(6)]
    with open_runner(2, None) as runner:
        outcomes = runner(work, jobs, lambda: None)
    assert [o.result for o in outcomes] == [o.result for o in run_loop(work, jobs, lambda: None)]
    assert str(outcomes[2].error) == "error[B000] 2: no twos. fix: drop it"


@pytest.mark.dist
def test_two_runs_at_once_listen_on_loopback_alone():
    with open_runner(2, None) as one, open_runner(2, None) as two:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        jobs = [Job("only", 4)]
        assert [runner(work, jobs, lambda: None)[0].result for runner in (one, two)] == [8, 8]


@pytest.mark.slow
@pytest.mark.dist
def test_a_task_that_kills_its_workers_is_named_and_the_others_finish():
    jobs = [Job(f"job{i}", i if i != 1 else -1) for i in range(4) if i != 2]
    with open_runner(2, None) as runner:
        outcomes = runner(work, jobs, lambda: None)
    assert [outcome.result for outcome in outcomes] == [0, None, 6]
    assert isinstance(outcomes[1].error, RemoteError)
    assert "job1" in str(outcomes[1].error)


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named():
    with (
        pytest.raises(RemoteError, match=r"error\[P02\] scheduler 'tcp://127\.0\.0\.1:1'"),
        open_runner(1, "tcp://127.0.0.1:1"),
    ):
        pass
