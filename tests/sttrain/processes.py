"""Real processes of ``sttrain fit`` for tests: alone or as ranks, to be waited for or killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""Patience with a job; the machine may be busy."""
RECIPE = """
epochs = {epochs}
batch = 8
precision = "fp32"
statistics_patches = 16
ema = 0.9
[model]
width = 16
layers = 1
heads = 2
ffn = 16
decoder_width = 8
decoder_layers = 1
decoder_heads = 2
decoder_ffn = 8
"""
"""A run that takes next to no time."""


class Starter:
    """Forks processes from one that has imported everything; see :mod:`tests.sttrain.starter`."""

    def __init__(self, module: str = "tests.sttrain.starter") -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **question: object) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(
        self,
        arguments: list[str],
        output: Path,
        n_ranks: int = 1,
        broken: str | None = None,
        program: str = "sttrain",
        environment: dict[str, str] | None = None,
    ) -> "Job":
        """Start one process, or the ranks of a job, as a launcher on one machine would."""
        where = dict(environment or {}) | ({"BROKEN": broken} if broken else {})
        if n_ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            where |= {
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n_ranks),
                "LOCAL_WORLD_SIZE": str(n_ranks),
            }  # fmt: skip
        numbers, outputs = [], []
        for rank in range(n_ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if n_ranks > 1 else {}
            outputs.append(output.with_suffix(f".{rank}.txt"))
            outputs[-1].unlink(missing_ok=True)
            number = self.ask(
                arguments=arguments, environment=where | own, output=str(outputs[-1]),
                program=program,
            )  # fmt: skip
            assert number is not None
            numbers.append(number)
        return Job(starter=self, numbers=numbers, outputs=outputs)


@dataclass
class Job:
    """Processes that run together."""

    starter: Starter
    numbers: list[int]
    outputs: list[Path]
    codes: list[int] = field(default_factory=list)
    """Exit codes of processes that have ended and are waited for no more."""

    def send(self, what: signal.Signals, rank: int | None = None) -> None:
        for number in self.numbers if rank is None else [self.numbers[rank]]:
            os.kill(number, what)

    def send_group(self, what: signal.Signals) -> None:
        """Signal everything that the processes started, too."""
        for number in self.numbers:
            os.killpg(number, what)

    def ended_within(self, seconds: float) -> bool:
        """Wait so long for the only process; say whether it has ended."""
        code = self.starter.ask(wait=self.numbers[0], seconds=seconds)
        if code is not None:
            self.numbers, self.codes = [], [code]
        return code is not None

    def poll(self) -> bool:
        """Return whether the first process still runs."""
        return Path(f"/proc/{self.numbers[0]}/stat").read_text().split()[2] != "Z"

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Return the exit codes; a process that is too slow fails the test."""
        until, codes = time.monotonic() + seconds, self.codes
        for number in self.numbers:
            code = self.starter.ask(wait=number, seconds=max(0, until - time.monotonic()))
            if code is None:
                self.send(signal.SIGUSR2)
                time.sleep(1)
                self.send(signal.SIGKILL)
                self.wait()
                pytest.fail(f"a process did not end in {seconds:.0f} s: {self.text()}")
            codes.append(code)
        self.numbers = []
        return codes

    def text(self, rank: int | None = None) -> str:
        """Return what the processes said."""
        chosen = self.outputs if rank is None else [self.outputs[rank]]
        return "\n".join(path.read_text() for path in chosen if path.exists())


def wait_for_lines(log: Path, lines: int, job: Job) -> None:
    """Wait until a run's log has so many lines."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and job.poll():
        if log.is_file() and log.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.005)
    pytest.fail(f"no {lines} lines: {job.text()}")
