"""An output folder: who may write in it, what an interrupted run left, what differs.

One builder at a time holds the folder's lock; temporary files of dead runs are removed.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from stbuild.corpus.durable import guard_disk, refused_by_disk, remove_leftovers
from stbuild.corpus.errors import ConflictError, Problem
from stbuild.corpus.holder import name_holder, sign_holder
from stbuild.corpus.names import WORK_DIR

_LOCK: Final = "lock"
_PATIENCE: Final = 1.0
"""Seconds that a run waits for another one to end."""
_HOLDER: Final = "holder.json"


def is_scratch(path: Path) -> bool:
    """Tell whether a path is the scratch folder of an output: a run of ours was here."""
    return path.name == WORK_DIR and path.is_dir()


@contextmanager
def hold_folder(root: Path) -> Iterator[Path]:
    """Hold an output folder for one run, and give its scratch folder.

    Files that a dead run left under temporary names are removed.

    Raises
    ------
    ConflictError
        Another process holds the folder; the message names it.
    ResourceError
        The folder cannot be written, or is taken away.
    """
    work = root / WORK_DIR
    handle = guard_disk(work / _LOCK, lambda: take_lock(work / _LOCK))
    if handle is None:
        raise _held(root, work / _HOLDER)
    try:
        guard_disk(work / _HOLDER, lambda: sign_holder(work / _HOLDER))
        remove_leftovers(root)
        yield work
    except OSError as error:
        # Whatever is wrong with the folder itself: that it is gone, above all.
        if root.absolute() not in Path(error.filename or "").absolute().parents:
            raise
        raise refused_by_disk(root, error) from error
    finally:
        os.close(handle)


def holder_of(work: Path) -> Path:
    """Return the file that says who holds the folder of a scratch folder: there during a run."""
    return work / _HOLDER


def take_lock(path: Path) -> int | None:
    """Return the handle of a lock, which ends with its process; None where another has it.

    A run that ends removes the file: who waited for it would then hold a file without a name, and
    whoever comes next another one. So it counts only while it has its name.

    Raises
    ------
    OSError
        The disk refuses.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(handle)
                return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        time.sleep(0.02)


def _held(root: Path, holder: Path) -> ConflictError:
    return ConflictError(
        Problem(
            code="P09",
            subject=f"output '{root.name}'",
            where=str(root),
            what=f"another run holds it ({name_holder(holder)})",
            fix="wait for it, or choose another -o folder",
        )
    )


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
