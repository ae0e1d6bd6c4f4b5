"""Starts processes of ``sttrain`` that need not import PyTorch again: each is a fork of this one.

Reads a JSON line for each: ``{"arguments", "environment", "output"}``, and ``"program"`` where
there are several (:mod:`tests.faults.server`), starts one and answers with its number;
``{"wait", "seconds"}`` answers with its exit code, negative for a signal, null if it still runs.
Nothing here has threads, so that a fork is a whole process.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import tensorboard.summary.writer.event_file_writer  # type: ignore[import-untyped]  # noqa: F401
import torch.distributed.fsdp
import torch.nn.parallel  # noqa: F401

import sttrain.train.curves
import sttrain.train.run  # noqa: F401
from sttrain.cli import main
from tests.sttrain.broken import VARIANTS

PROGRAMS: dict[str, Callable[[], NoReturn]] = {"sttrain": main}


def run(
    arguments: list[str], environment: dict[str, str], output: str, program: str = "sttrain"
) -> None:
    """Be the process: never returns."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    if "BROKEN" in environment:
        VARIANTS[environment["BROKEN"]]()
    faulthandler.register(signal.SIGUSR2, file=2)  # where it stands, for a test that waits in vain
    sys.argv = [program, *arguments]
    code = 1
    try:
        PROGRAMS[program]()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a test shall read it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(number: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = wait(asked["wait"], asked["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                run(**asked)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
    os._exit(0)  # taking down all those libraries takes seconds
