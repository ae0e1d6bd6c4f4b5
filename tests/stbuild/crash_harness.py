"""Kill a build at its N-th file-system event, for many N, forking from one warm interpreter.

Run as ``python -m tests.stbuild.crash_harness`` with a JSON object on stdin; prints a JSON object.
A fresh interpreter for every N would cost a second each, and there are some hundreds of events.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import anndata  # noqa: F401 - these are imported so that every fork has them

import stbuild.build.building
import stbuild.build.extension
import stbuild.grid.compact
import stbuild.reading.sections
import stbuild.sources.h5ad  # noqa: F401
from stbuild.cli import cli
from tests.stbuild.broken import CRASHING, DAMAGED
from tests.stbuild.warm_jail import fork_jails
from tests.trees import tree_digests

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR
KILLED = 137
DATA = {".bin", ".tar"}
"""Files of samples; chunks of grids have no suffix."""


def run_child(arguments: list[str], root: str, last: int) -> tuple[int, int]:
    """Run one command in a fork that dies at its `last`-th event; return (exit code, events)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count, mine = 0, os.getpid()

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            if event not in EVENTS or not str(args[0]).startswith(root) or os.getpid() != mine:
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


def damage(root: Path) -> None:
    """Change one byte of everything that holds counts or samples, as a disk does that loses it."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and (path.suffix in DATA or "c" in path.relative_to(root).parts):
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)


def crash(task: dict[str, object], which: int, event: int) -> tuple[int, list[list[int]]]:
    """Die at one event (0: never) of one command, then build again; return events and faults."""
    root = Path(str(task["root"])) / f"{which}-{event}"
    templates: list[list[str]] = task["commands"]  # type: ignore[assignment]
    commands = [[word.replace("{root}", str(root)) for word in line] for line in templates]
    before = root.with_name(f"{which}-before")  # what the commands before it made, once
    if event == 0:
        root.mkdir()
        build(commands[:which], str(root))
        shutil.copytree(root, before)
    else:
        shutil.copytree(before, root)
    code, counted = run_child(commands[which], str(root), event)
    faults = [[which, event, code]] if event and code != KILLED else []
    if event and task.get("damage"):
        damage(root)
    build(commands, str(root))
    if tree_digests(root) != task["digests"]:
        faults.append([which, event, -1])
    else:
        shutil.rmtree(root)
    return counted, faults


def check(task: dict[str, object]) -> dict[str, object]:
    """Crash at every `stride`-th event of every command; return what went wrong, and how many.

    A build that is broken on purpose is crashed at its last events alone.
    """
    stride, broken = int(str(task["stride"])), task.get("broken")
    if broken is not None:
        (CRASHING | DAMAGED)[str(broken)]()
    wrong: list[list[int]] = []
    points = 0
    for which in range(len(task["commands"])):  # type: ignore[arg-type]
        total, faults = crash(task, which, 0)
        wrong += faults
        first = 1 if broken is None else max(1, total - 2)
        for event in range(first, total + 1, stride):
            wrong += crash(task, which, event)[1]
            points += 1
    return {"points": points, "wrong": wrong}


if __name__ == "__main__":
    fork_jails()
    sys.stdout.write(json.dumps(check(json.load(sys.stdin))))
