"""Kill a build at its N-th file-system event, for many N, forking from one warm interpreter.

Run as ``python -m tests.stbuild.crash_harness`` with a JSON object on stdin; prints a JSON object.
A fresh interpreter for every N would cost a second each, and there are some hundreds of events.
"""

import json
import os
import sys
from pathlib import Path

import stbuild.build
import stbuild.compact  # noqa: F401 - imported so that every fork has it
from stbuild.cli import cli
from tests.trees import tree_digests

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR
KILLED = 137


def run_child(arguments: list[str], root: str, last: int) -> tuple[int, int]:
    """Run one command in a fork that dies at its `last`-th event; return (exit code, events)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            if event not in EVENTS or not str(args[0]).startswith(root):
                return
            if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
                return
            count += 1
            if count == last:
                os._exit(KILLED)

        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.addaudithook(hook)
        code = 1
        try:
            cli.main(args=arguments, standalone_mode=False)
            code = 0
        finally:
            os.write(writer, str(count).encode())
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    counted = os.read(reader, 32)
    os.close(reader)
    return os.waitstatus_to_exitcode(status), int(counted or b"0")


def build(commands: list[list[str]], root: str) -> None:
    """Run all commands to their end."""
    for command in commands:
        code, _ = run_child(command, root, 0)
        if code != 0:
            raise SystemExit(f"{command[0]} ended with {code} after a crash")


def check(task: dict[str, object]) -> dict[str, object]:
    """Crash at every `stride`-th event of every command; return what went wrong, and how many."""
    base, stride = Path(str(task["root"])), int(str(task["stride"]))
    templates: list[list[str]] = task["commands"]  # type: ignore[assignment]
    wrong: list[list[int]] = []
    points = 0
    for which in range(len(templates)):
        event, total = 0, 1
        while event <= total:
            root = str(base / f"{which}-{event}")
            Path(root).mkdir()
            commands = [[word.replace("{root}", root) for word in line] for line in templates]
            build(commands[:which], root)
            code, counted = run_child(commands[which], root, event)
            if event == 0:
                total = counted
            elif code != KILLED:
                wrong.append([which, event, code])
            build(commands, root)
            if tree_digests(Path(root)) != task["digests"]:
                wrong.append([which, event, -1])
            points += event > 0
            event += stride if event else 1
    return {"points": points, "wrong": wrong}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(check(json.load(sys.stdin))))
