"""What both command lines do with an error: print it in the fixed form, return the exit code.

Errors that a user can act on become at most three lines each; anything else is a bug, which
saves its traceback and says where.
"""

import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Timer, main_thread
from types import FrameType
from typing import Final, NoReturn, Protocol, cast

from stbuild.corpus.errors import Problem, StError, printable
from stbuild.corpus.storage import failing_storage

INTERRUPTED: Final = 130
TERMINATED: Final = 143
NOTICE: Final = signal.SIGUSR1
"""What SLURM is asked to send a while before it takes a job's machine (``--signal=USR1@60``)."""
_SOON: Final = 0.05
"""Seconds until a signal that was swallowed is sent again."""
_AT_ONCE: Final = (
    b"error[P08] run: ended at once by a second signal; finished work is kept. "
    b"fix: run the same command again to resume\n"
)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 came: stop as on an interrupt, but exit with a code of its own."""


class UsageError(Protocol):
    """What the command-line library raises for a wrong flag."""

    exit_code: int

    def show(self) -> None:
        """Print the message and the usage."""
        ...


def run_program(
    invoke: Callable[[list[str]], object], usage: type[Exception], aborted: type[Exception]
) -> NoReturn:
    """Run a command line and leave the process with the right code.

    Parameters
    ----------
    invoke
        Runs the click group on the arguments, outside its standalone mode.
    usage
        Exception of the library that shows itself and knows its exit code.
    aborted
        Exception into which the library turns an interrupt.
    """
    arguments = sys.argv[1:]
    gc.freeze()  # what is imported by now stays: nothing needs to look through it again
    _listen()

    def action() -> None:
        try:
            invoke(arguments)
        except aborted as error:
            # The library hides what it caught, but Python remembers.
            cause = error.__context__
            raise cause if isinstance(cause, KeyboardInterrupt) else KeyboardInterrupt from None

    flags = {"as_json": "--json" in arguments, "debug": "--debug" in arguments}
    try:
        code = run_guarded(action, passing=(usage,), **flags)
    except usage as error:
        code = _show_usage(error)
    sys.exit(code)


def _listen() -> None:
    """Take SIGTERM, SIGINT and NOTICE: the first unwinds what runs, a second one ends it at once.

    What unwinds cannot be trusted with a second exception, and need not be: a process may be
    killed at any instant. An interrupt that is ignored, as in a shell's background, stays so.
    A notice that is repeated, by SLURM and by who passes it on, is still one notice.
    """
    heard: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        terminated = number != signal.SIGINT
        if heard and number == NOTICE:
            return
        if heard:
            os.write(2, _AT_ONCE)
            os._exit(TERMINATED if terminated else INTERRUPTED)
        heard.append(number)
        raise TerminatedError if terminated else KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(NOTICE, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    _repeat_swallowed(heard)


def _repeat_swallowed(heard: list[int]) -> None:
    """Send a signal again whose exception came up where Python drops exceptions.

    That is in finalisers and callbacks of weak references: the run would go on as if nothing had
    been said.
    """
    default = sys.unraisablehook

    def repeat(dropped: "sys.UnraisableHookArgs") -> None:
        if heard and issubclass(dropped.exc_type, KeyboardInterrupt):
            main = main_thread().ident  # no other thread's system call would wake it
            again = Timer(_SOON, signal.pthread_kill, (main, heard.pop()))
            again.daemon = True
            again.start()
        else:
            default(dropped)

    sys.unraisablehook = repeat


def _show_usage(error: Exception) -> int:
    shown = cast(UsageError, error)
    shown.show()
    return shown.exit_code


def report_error(error: StError, *, as_json: bool) -> None:
    """Print every problem of `error` on stderr, one line each."""
    for problem in error.problems:
        line = json.dumps(problem.as_dict(), sort_keys=True) if as_json else str(problem)
        print(line, file=sys.stderr)  # noqa: T201 - this is the edge where errors are printed


def run_guarded(
    action: Callable[[], object],
    *,
    as_json: bool,
    debug: bool,
    passing: tuple[type[Exception], ...] = (),
) -> int:
    """Run a command and turn what it raises into an exit code.

    Parameters
    ----------
    action
        The command; it returns nothing of interest.
    as_json
        Print problems as JSON lines.
    debug
        Let exceptions through with their traceback.
    passing
        Exceptions of the command-line library, which the caller shows itself.
    """
    try:
        action()
    except StError as error:
        if debug:
            raise
        report_error(error, as_json=as_json)
        return error.exit_code
    except passing:
        raise
    except KeyboardInterrupt as stop:
        problem = Problem(
            code="P08",
            subject="run",
            what="interrupted; finished work is kept",
            fix="run the same command again to resume",
        )
        report_error(StError(problem), as_json=as_json)
        return TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED
    except MemoryError as error:
        if debug:
            raise
        full = Problem(
            code="P33",
            subject="run",
            what=f"memory ran out {printable(error)}".rstrip(),
            fix="use fewer workers (-j) or a smaller batch, then run the same command again",
        )
        report_error(StError(full), as_json=as_json)
        return 7
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (failing := failing_storage(error)):
            report_error(failing, as_json=as_json)
            return failing.exit_code
        saved = save_traceback()
        bug = Problem(
            code="E001",
            subject="internal error",
            where=str(saved),
            what=f"{type(error).__name__}: {str(error)[:200]}",
            fix="this is a bug: please report it with the traceback saved at that path",
        )
        report_error(StError(bug), as_json=as_json)
        return 1
    return 0


def save_traceback() -> Path:
    """Write the traceback being handled to a new temporary file and return its path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="stcorpus-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
