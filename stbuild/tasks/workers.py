"""What a worker of a cluster does with a task, wherever it runs.

It refuses where bytes could come out otherwise (other versions than the client's), and where they
would be lost (a folder that it does not share with the client). Workers may join at any time, so
both are looked at for every task. A task that hangs is given up after a while: Dask itself would
wait for ever, since the worker is well.
"""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stbuild.corpus.errors import PlatformError, Problem, ResourceError
from stbuild.tasks.pipeline import Outcome, attempt, name_of
from stbuild.tools import running_code

_SEEN_WITHIN: Final = 30.0
"""Seconds in which a file of the client must be seen: network folders remember what was absent."""


class SlowTaskError(ResourceError):
    """A task did not end in time; its thread is left behind in the worker."""


def attempt_there(
    function: Callable[[Any], Any],
    code: tuple[tuple[str, str], ...],
    limit: float | None,
    task: Any,  # noqa: ANN401 - any task
    seen_within: float = _SEEN_WITHIN,
) -> Outcome[Any]:
    """Run one task in a worker, if this is a worker that may.

    Parameters
    ----------
    function, task
        What is to be done. A task's ``mark``, if it has one, is a file that the client made and
        that must be seen from here.
    code
        What decides bytes at the client, from :func:`running_code`.
    limit
        Seconds that the task may take; None waits for ever.
    seen_within
        Seconds to wait for the mark.
    """
    mark = getattr(task, "mark", None)
    error = _other_code(code) or (_unseen(mark, seen_within) if mark is not None else None)
    return _within(limit, function, task) if error is None else Outcome(None, error)


def _within(
    limit: float | None,
    function: Callable[[Any], Any],
    task: Any,  # noqa: ANN401 - any task
) -> Outcome[Any]:
    """Run a task in a thread of its own, which may be left behind: threads cannot be ended.

    If it wakes up, it writes the bytes that another has written meanwhile.
    """
    done: list[Outcome[Any]] = []
    thread = threading.Thread(target=lambda: done.append(attempt(function, task)), daemon=True)
    thread.start()
    thread.join(limit)
    return done[0] if done else Outcome(None, _too_slow(task, limit))


def _too_slow(task: object, limit: float | None) -> SlowTaskError:
    what = f"it did not end within {limit or 0:g} s, on two workers one after the other"
    fix = (
        "allow more with --task-timeout if it only needs longer; -j 1 shows where it hangs; "
        "finished work is kept"
    )
    return SlowTaskError(Problem(code="P04", subject=name_of(task), what=what, fix=fix))


def _other_code(code: tuple[tuple[str, str], ...]) -> PlatformError | None:
    here = dict(running_code())
    differ = [f"{name} {here.get(name)} not {known}" for name, known in code
              if here.get(name) != known]  # fmt: skip
    if not differ:
        return None
    what = f"it has {', '.join(differ)}: its bytes could differ"
    fix = "install the same versions (constraints.txt) on every worker, or end this worker"
    return _refuse(what, fix)


def _unseen(mark: Path, seen_within: float) -> PlatformError | None:
    end = time.monotonic() + seen_within
    while not mark.is_file():
        if time.monotonic() >= end:
            what = f"it does not see {mark}, which the client made"
            fix = "mount the output folder on every worker, at the same path"
            return _refuse(what, fix)
        time.sleep(min(1.0, seen_within / 4))
    return None


def _refuse(what: str, fix: str) -> PlatformError:
    subject = f"worker on '{socket.gethostname()}'"
    return PlatformError(Problem(code="P10", subject=subject, what=what, fix=fix))
