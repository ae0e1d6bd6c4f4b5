"""Runners: order kept, errors collected, dead workers named."""

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stbuild.corpus.errors import BadInputError, Problem, RemoteError, ResourceError, StError
from stbuild.tasks.pipeline import Patience, Workers, open_runner, run_loop
from stbuild.tasks.workers import SlowTaskError, attempt_there
from stbuild.tools import running_code


@dataclass(frozen=True)
class Job:
    """A task with a name, as the real ones have."""

    name: str
    number: int
    log: Path | None = None
    """Where each attempt is noted."""


def work(job):
    """Double, refuse 2, die on -1, hang once on -2 and always on -3, break on -4 and -5."""
    if job.log is not None:
        with job.log.open("a") as log:
            log.write(f"{os.getpid()}\n")
    if job.number == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.number == -3 or (job.number == -2 and len(job.log.read_text().splitlines()) == 1):
        time.sleep(600)
    if job.number == -4:
        raise KeyError("odd")
    if job.number == -5:
        raise MemoryError
    if job.number == 2:
        raise BadInputError(Problem(code="B000", subject=job.name, what="no twos", fix="drop it"))
    return 2 * job.number


def test_a_loop_tries_every_task_and_keeps_the_order():
    ticks = []
    outcomes = run_loop(work, [Job(str(i), i) for i in range(4)], lambda: ticks.append(1))
    assert [outcome.result for outcome in outcomes] == [0, 2, None, 6]
    assert isinstance(outcomes[2].error, BadInputError)
    assert len(ticks) == 4


def test_a_bug_that_one_task_meets_names_it_and_stops_no_other():
    numbers = {"first": 1, "breaks": -4, "full": -5, "last": 4}
    outcomes = run_loop(work, [Job(*item) for item in numbers.items()], lambda: None)
    assert [outcome.result for outcome in outcomes] == [2, None, None, 8]
    assert type(outcomes[1].error) is StError
    problem = outcomes[1].error.problems[0]
    assert (problem.code, problem.subject) == ("E001", "task breaks")
    assert "KeyError: 'odd'" in problem.what
    kept = Path(problem.fix.rsplit(" ", 1)[-1])
    assert "KeyError" in kept.read_text()
    kept.unlink()
    assert isinstance(outcomes[2].error, ResourceError)
    assert "task full: memory ran out" in str(outcomes[2].error)


def test_a_worker_gives_a_task_up_that_hangs():
    start, code = time.monotonic(), running_code()
    outcome = attempt_there(lambda _job: time.sleep(30), code, 0.2, Job("slow", 0))
    assert isinstance(outcome.error, SlowTaskError)
    assert "task slow: it did not end within 0.2 s" in str(outcome.error)
    assert time.monotonic() - start < 20
    assert attempt_there(work, code, None, Job("quick", 4)).result == 8


@pytest.mark.slow
@pytest.mark.dist
def test_a_task_that_hangs_in_a_healthy_worker_is_tried_elsewhere_and_then_named(tmp_path):
    """Dask waits for ever for a worker that answers."""
    jobs = [
        Job("quick", 1),
        Job("once", -2, tmp_path / "once"),
        Job("always", -3, tmp_path / "always"),
        Job("last", 4),
    ]
    said: list[str] = []
    start = time.monotonic()
    workers = Workers(jobs=2, patience=Patience(task=5.0))
    with open_runner(workers=workers, say=said.append) as runner:
        outcomes = runner(work, jobs, lambda: None)
    assert [outcome.result for outcome in outcomes] == [2, -4, None, 8]
    assert isinstance(outcomes[2].error, ResourceError)
    assert re.match(r"error\[P04\] task always: it did not end within 5 s", str(outcomes[2].error))
    for job in jobs[1:3]:
        assert job.log is not None
        processes = job.log.read_text().split()
        assert len(processes) == len(set(processes)) >= 2  # never twice in a worker that hangs
    assert len([line for line in said if "hangs" in line]) >= 3
    assert time.monotonic() - start < 500


@pytest.mark.dist
def test_local_processes_give_the_outcomes_of_a_loop():
    jobs = [Job(str(i), i) for i in range(6)]
    with open_runner(2, None) as runner:
        outcomes = runner(work, jobs, lambda: None)
    assert [o.result for o in outcomes] == [o.result for o in run_loop(work, jobs, lambda: None)]
    assert str(outcomes[2].error) == "error[B000] 2: no twos. fix: drop it"


@pytest.mark.dist
def allocator(_):
    """Return what a worker's environment tells the C library of memory, and of threads."""
    return {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "OMP_"))}


@pytest.mark.dist
def test_local_workers_keep_freed_memory_as_a_loop_does(monkeypatch):
    """Dask's own setting costs a page fault for every 4 KiB of every array, again and again."""
    for name in allocator(None):
        monkeypatch.delenv(name)
    with open_runner(2, None) as runner:
        (outcome,) = runner(allocator, [0], lambda: None)
    assert outcome.result == {"OMP_NUM_THREADS": "1"}


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
