"""A Dask scheduler and workers as processes of their own, on loopback, to be hurt by tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from stbuild.tasks.pipeline import Patience, Workers, open_runner

ROOT = Path(__file__).resolve().parents[1]
HASTE = Patience(worker=60.0, scheduler=10.0, look=0.5)
"""Of a client that must notice soon."""
QUICK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
}
"""A scheduler that gives a silent worker up after three seconds instead of five minutes."""
SLOW = """
import os, time
import stbuild.tasks.workers as workers
from stbuild.tasks.pipeline import attempt as real  # Dask runs this file more than once
def attempt(function, task):
    if function.__module__.startswith("stbuild"):
        time.sleep(float(os.environ["TASK_SECONDS"]))
        with open(os.environ["TASK_LOG"], "a") as log:
            log.write(f"{os.getpid()} {function.__name__} {task.name}\\n")
    return real(function, task)
workers.attempt = attempt
"""
"""Preloaded by workers: each task takes a while longer, and is noted."""


@dataclass
class Cluster:
    """One scheduler and its workers."""

    folder: Path
    task_seconds: float = 0.0
    port: int = 0
    address: str = ""
    scheduler: "subprocess.Popen[bytes] | None" = None
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start_scheduler(self) -> None:
        """Start it; again on the same port, if it ran before."""
        known = self.folder / "scheduler.json"
        self.port = self.port or free_port()
        known.unlink(missing_ok=True)
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(self.port),
            "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(known),
        )  # fmt: skip
        self.address = _wait_for_address(known)

    def start_worker(self, *options: str, nanny: bool = False) -> "subprocess.Popen[bytes]":
        """Start a worker of one thread; it joins when it is ready."""
        preload = self.folder / "slow.py"
        preload.write_text(SLOW)
        worker = self._start(
            "worker", self.address, "--nthreads", "1", "--host", "127.0.0.1",
            "--dashboard-address", "127.0.0.1:0",
            "--nanny" if nanny else "--no-nanny", "--local-directory", str(self.folder / "local"),
            "--memory-limit", "0", "--death-timeout", "60", "--preload", str(preload), *options,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def log(self) -> list[list[str]]:
        """Return (process, function, task) of every task that was begun."""
        path = self.folder / "tasks.log"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_tasks(self, n: int, seconds: float = 60) -> None:
        """Wait until so many tasks were begun."""
        end = time.monotonic() + seconds
        while len(self.log()) < n:
            assert time.monotonic() < end, f"{len(self.log())} of {n} tasks"
            time.sleep(0.02)

    def close(self) -> None:
        """End everything that was started."""
        for process in (*self.workers, self.scheduler):
            if process is not None:
                kill(process)

    def _start(self, what: str, *options: str) -> "subprocess.Popen[bytes]":
        told = {**os.environ, **QUICK, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        told |= {"TASK_SECONDS": str(self.task_seconds), "PYTHONWARNINGS": "ignore"}
        told |= {"TASK_LOG": str(self.folder / "tasks.log")}
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *options],
                env=told, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


def kill(process: "subprocess.Popen[bytes]", how: int = signal.SIGKILL) -> None:
    """Signal a process and all that it started, and wait if that ends it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    if how == signal.SIGKILL:
        process.wait()


def free_port() -> int:
    """Return a port below those of clients: one that connects anew could take the other kind."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    msg = "no free port"
    raise OSError(msg)


def _wait_for_address(path: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(path.read_text())["address"])
        time.sleep(0.05)
    msg = "no scheduler within a minute"
    raise TimeoutError(msg)


@contextmanager
def running_cluster(folder: Path, n_workers: int, task_seconds: float = 0.0) -> Iterator[Cluster]:
    """Give a cluster, and end all of it."""
    cluster = Cluster(folder, task_seconds)
    try:
        cluster.start_scheduler()
        for _ in range(n_workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.close()


@contextmanager
def runner_on(cluster: Cluster, patience: Patience = HASTE, said: list[str] | None = None):
    """Give a client of the cluster."""
    lines = said if said is not None else []
    workers = Workers(scheduler=cluster.address, patience=patience)
    with open_runner(workers=workers, say=lines.append) as runner:
        yield runner
