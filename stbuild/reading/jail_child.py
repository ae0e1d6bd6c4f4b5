"""The other side of :mod:`stbuild.reading.jail`: a server that forks one child per foreign file.

It imports the readers once, so that a child costs milliseconds, and runs no threads, so that
forking is safe. A child has limits of memory and time, reads one slice, and hands it over as files.
Run as ``python -m stbuild.reading.jail_child``; requests and replies are lines of JSON.
"""

import errno
import gc
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TextIO

from stbuild.config import GridConfig
from stbuild.corpus.console import NOTICE
from stbuild.corpus.errors import Problem, ResourceError, StError
from stbuild.reading.handover import save_error, save_sections, save_slice
from stbuild.reading.opening import list_sections, read_here
from stbuild.slices import SliceRecord

BUG: Final = "traceback.txt"
SLOW: Final = "anndata.txt"
"""Left by a child that had to import anndata, which takes a second."""
_DONE, _REFUSED, _BUG = 0, 3, 1
DISK: Final = 64
"""More than this is the exit code of a child that could not write what it has to say: by as much
as the number of the error."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer every request line with the exit code (or minus the signal) of its child."""
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run_child(request)
        signal.signal(signal.SIGTERM, _stopper(child))
        _, status = os.waitpid(child, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if (Path(request["folder"]) / SLOW).is_file():
            import anndata  # noqa: F401 - the next file of this kind finds it imported
        replies.write(f"{os.waitstatus_to_exitcode(status)}\n")
        replies.flush()


def _stopper(child: int) -> Any:  # noqa: ANN401 - the type of a signal handler
    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    return stop


def _run_child(request: dict[str, Any]) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(request["wall"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A busy machine is not the file's doing: loops are ended by the time that they compute.
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 5))
    # What the libraries have mapped already is not the file's doing.
    allowed = _mapped_bytes() + request["bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    folder = Path(request["folder"])
    try:
        os._exit(_answer(request, folder))
    except BaseException as error:  # noqa: BLE001 - the edge of a process: it is handed over
        os._exit(_hand_over(error, folder))


def _hand_over(error: BaseException, folder: Path) -> int:
    """Leave the trace of an error, if there is room for it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return DISK + error.errno
    text = traceback.format_exc()
    with _saving():
        (folder / BUG).write_text(text, "utf-8")
    return _BUG


@contextmanager
def _saving() -> Iterator[None]:
    """End the child where its own files cannot be written: that is no fault of what it read."""
    try:
        yield
    except OSError as error:
        os._exit(DISK + (error.errno or errno.EIO))


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _answer(request: dict[str, Any], folder: Path) -> int:
    record = SliceRecord(**request["record"])
    config = GridConfig(**request["config"])
    table = request["table"]
    try:
        if request["list"]:
            sections = list_sections(record, config)
            with _saving():
                save_sections(sections, folder)
            return _DONE
        st_slice = read_here(record, config, None if table is None else Path(table), folder)
    except StError as error:
        with _saving():
            save_error(error, folder)
        return _REFUSED
    except MemoryError:
        problem = Problem(
            code="P33",
            subject=f"slice '{record.name}'",
            where=record.path,
            what=f"reading it needs more than {request['bytes'] / 2**30:.1f} GiB of memory",
            fix="allow more with --probe-memory, if the file is what you think it is",
        )
        with _saving():
            save_error(ResourceError(problem), folder)
        return _REFUSED
    with _saving():
        save_slice(st_slice, folder)
    if "anndata" in sys.modules:
        (folder / SLOW).touch()
    return _DONE


def main() -> None:
    """Serve until the parent closes our input."""
    for number in (signal.SIGINT, NOTICE):  # the parent hears them, too, and ends this process
        signal.signal(number, signal.SIG_IGN)
    # Libraries may print; only our own lines go to the parent.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        import stbuild.sources.h5ad  # noqa: F401 - imported once, before any fork

        # What is imported stays: no child needs to look through it, nor to copy its pages.
        gc.freeze()
        serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
