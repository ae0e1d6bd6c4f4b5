"""Calls of the system that fail, lie or are noted: what is given to a process for that.

`failing_calls.c` is compiled and preloaded into the starter of all processes; it sleeps until a
process's environment says what to hurt.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.durable import PARTIAL

SOURCE = Path(__file__).with_name("failing_calls.c")
SCRATCH = ".work"


@dataclass(frozen=True)
class Fault:
    """What happens to some calls."""

    call: str
    error: int
    """Number of the error; 0: one byte alone is written, -1: none is, and one is claimed."""
    lasting: bool = False
    """Whether all later calls are hurt, too."""

    def environment(self, root: Path, folder: Path, at: int) -> dict[str, str]:
        """Return the variables that hurt the `at`-th call below `root`; 0 hurts none."""
        count = folder / "count"
        count.unlink(missing_ok=True)
        told = {"FAULT_ROOT": str(root), "FAULT_CALL": self.call, "FAULT_ERRNO": str(self.error)}
        told |= {"FAULT_AT": str(at), "FAULT_COUNT": str(count)}
        return told | ({"FAULT_ON": "1"} if self.lasting else {})


def compiled(folder: Path) -> Path | str:
    """Return the library to preload, or why there is none."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "no C compiler here"
    library = folder / "failing_calls.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return library if done.returncode == 0 else done.stderr


def counted(folder: Path) -> int:
    """Return how many calls of the kind there were."""
    path = folder / "count"
    return int.from_bytes(path.read_bytes(), "little") if path.exists() else 0


def unsafe_renames(lines: Sequence[str]) -> Iterator[str]:
    """Yield every final name whose bytes, or whose place in its folder, a power cut could lose.

    A file is to be flushed between its last write and its rename, and its folder after that; of
    a folder that is renamed, all files and folders that were written in it.
    """
    events = [line.split("\t") for line in lines]
    for number, (call, path, old) in enumerate(events):
        if call != "rename" or PARTIAL in path or SCRATCH in Path(path).parts:
            continue
        dirty = set()
        for what, name, _ in events[:number]:
            if name == old or name.startswith(f"{old}/"):
                if what == "write":
                    dirty.add(name)
                elif what == "fsync":
                    dirty.discard(name)
        yield from (f"{name} is not flushed before it becomes {path}" for name in sorted(dirty))
        folder = str(Path(path).parent)
        if not any(what == "fsync" and name == folder for what, name, _ in events[number + 1 :]):
            yield f"{folder} is not flushed after {path} got its name"
