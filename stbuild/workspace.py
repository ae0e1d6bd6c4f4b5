"""An output folder: who may write in it, what an interrupted run left, what differs.

One builder at a time holds the folder's lock; temporary files of dead runs are removed.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from stbuild.corpus.durable import PARTIAL, guard_disk
from stbuild.corpus.errors import ConflictError, Problem
from stbuild.corpus.names import WORK_DIR

_LOCK: Final = "lock"
_HOLDER: Final = "holder.json"


@contextmanager
def hold_folder(root: Path) -> Iterator[Path]:
    """Hold an output folder for one run, and give its scratch folder.

    Files that a dead run left under temporary names are removed.

    Raises
    ------
    ConflictError
        Another process holds the folder; the message names it.
    ResourceError
        The folder cannot be written.
    """
    work = root / WORK_DIR
    guard_disk(work, lambda: work.mkdir(parents=True, exist_ok=True))
    lock = FileLock(work / _LOCK)
    if not guard_disk(work / _LOCK, lambda: _acquire(lock)):
        raise _held(root, work / _HOLDER)
    try:
        guard_disk(work, lambda: (work / _HOLDER).write_text(json.dumps({"pid": os.getpid()})))
        remove_leftovers(root)
        yield work
    finally:
        lock.release()


def holder_of(work: Path) -> Path:
    """Return the file that says who holds the folder of a scratch folder: there during a run."""
    return work / _HOLDER


def _acquire(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=1)
    except Timeout:
        return False
    return True


def _held(root: Path, holder: Path) -> ConflictError:
    pid = "unknown"
    with suppress(OSError, ValueError, AttributeError):
        pid = str(json.loads(holder.read_text()).get("pid"))
    return ConflictError(
        Problem(
            code="P09",
            subject=f"output '{root.name}'",
            where=str(root),
            what=f"another run holds it (process {pid})",
            fix="wait for it, or choose another -o folder",
        )
    )


def remove_leftovers(root: Path) -> None:
    """Remove what dead runs, and dead workers of this one, left under temporary names.

    A run whose tasks are done calls it again before it says so: a worker that was killed while it
    wrote left its file, and another wrote the whole one.
    """
    for leftover in sorted(root.rglob(f".*{PARTIAL}*")):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_scratch(root: Path) -> None:
    """Remove the scratch folder of a finished run."""
    shutil.rmtree(root / WORK_DIR, ignore_errors=True)


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words what differs between two configurations: ``key: old -> new``."""
    keys = sorted(set(old) | set(new))
    changes = [
        f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)
    ]
    return "; ".join(changes)


def refuse_difference(root: Path, subject: str, changes: Iterable[str]) -> ConflictError:
    """Return the error for an output that holds something else."""
    return ConflictError(
        Problem(
            code="B097",
            subject=subject,
            where=str(root),
            what=f"the output holds something else ({'; '.join(changes)})",
            fix="choose another -o folder, or repeat the run with what it was made with",
        )
    )
