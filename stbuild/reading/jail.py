"""Reading foreign files in a throw-away child process with limits of memory and time.

A malformed file can crash HDF5 or SciPy, hang them, or ask for terabytes (272 of 1,500 mutated
files killed a reader, measured): here it ends one child, and the slice is named. The parent never
opens the file with anything but SHA-256.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Final, NoReturn, cast

from stbuild.config import GridConfig
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.paths import look_at
from stbuild.reading.handover import load_error, load_reply, load_slice
from stbuild.reading.jail_child import BUG, DISK
from stbuild.slices import Slice, SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.formats import require_text

_BYTES_PER_SECOND: Final = 2**20
"""A reader gets one second more for each of them: text tables are parsed at 20 MB/s and more."""
_WALL: Final = 10
"""Seconds by the clock for each second of CPU time: the machine may be busy with other things."""
_MOST_FILES: Final = 50_000
"""Files of a folder whose bytes are counted."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one child may use."""

    seconds: int = 60
    """CPU time for a small file; large ones get a second more per MiB, and all ten times as long
    by the clock."""
    gib: float | None = None
    """Memory in GiB; None takes three quarters of the machine's."""

    def for_source(self, record: SliceRecord) -> tuple[int, int]:
        """Return (seconds, bytes) for one source."""
        size = _source_bytes(Path(record.path))
        share = 0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = int(share if self.gib is None else self.gib * 2**30)
        return self.seconds + size // _BYTES_PER_SECOND, memory


def _source_bytes(path: Path) -> int:
    look = look_at(path)
    if not look.is_folder:  # what is not there is refused by its reader
        return path.stat().st_size if look.is_file else 0
    # Whoever names a home folder by mistake does not wait until all of it is counted.
    return sum(
        file.stat().st_size for file in islice(path.rglob("*"), _MOST_FILES) if file.is_file()
    )


class Jail:
    """The server process that forks children; started with the first slice, one a process."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, request: dict[str, object]) -> int:
        """Run one request and return the exit code of its child, or minus its signal."""
        with self._lock:
            server = self._server
            if server is None or server.poll() is not None:
                self.close()
                server = self._server = self._start()
            requests, replies = cast(IO[str], server.stdin), cast(IO[str], server.stdout)
            try:
                requests.write(json.dumps(request) + "\n")
                requests.flush()
                line = replies.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                self.close()
                return -signal.SIGKILL
            return int(line)

    def close(self) -> None:
        """End the server and whatever it runs."""
        if self._server is not None:
            self._server.terminate()
            self._server.communicate()
            self._server = None

    @staticmethod
    def _start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-P", "-m", "stbuild.reading.jail_child"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )


_JAIL: Final = Jail()
atexit.register(_JAIL.close)


@contextmanager
def read_jailed(
    record: SliceRecord, config: GridConfig, table: Path | None, limits: Limits, scratch: Path
) -> Iterator[Slice]:
    """Read one slice in a child process; its counts are valid inside the ``with`` block.

    Parameters
    ----------
    record, config
        The slice and how to read it.
    table
        Gene table, where ids are mapped.
    limits
        What the child may use.
    scratch
        Folder for what the child hands over.

    Raises
    ------
    BadInputError
        Every fault of the source; or that its reader crashed (B017) or hung (B018).
    ResourceError
        It needs more memory than allowed, or the disk of `scratch` refuses.
    """
    with guard_disk(scratch, lambda: _make_folder(scratch)) as name:
        _ask(record, config, table, limits, Path(name), sections=False)
        yield guard_disk(scratch, partial(load_slice, Path(name)))


def _make_folder(scratch: Path) -> "tempfile.TemporaryDirectory[str]":
    scratch.mkdir(parents=True, exist_ok=True)
    # What is taken away meanwhile need not be removed.
    return tempfile.TemporaryDirectory(dir=scratch, prefix="read-", ignore_cleanup_errors=True)


def list_jailed(record: SliceRecord, config: GridConfig, limits: Limits) -> list[str]:
    """Return the sections of a file that is to be split, read in a child process.

    Raises
    ------
    BadInputError, ResourceError
        As :func:`read_jailed`.
    """
    with tempfile.TemporaryDirectory(prefix="stbuild-") as name:
        _ask(record, config, None, limits, Path(name), sections=True)
        return [str(section) for section in load_reply(Path(name))["sections"]]


def _ask(
    record: SliceRecord,
    config: GridConfig,
    table: Path | None,
    limits: Limits,
    folder: Path,
    *,
    sections: bool,
) -> None:
    """Have one request answered into `folder`; raise what went wrong."""
    try:
        require_text(record.path)  # else no answer about it could be written
    except SourceFaultError as fault:
        raise BadInputError(fault.problem(record.name, record.path)) from None
    seconds, memory = limits.for_source(record)
    code = _JAIL.run(
        {
            "list": sections,
            "record": asdict(record),
            "config": config.model_dump(mode="json"),
            "table": None if table is None else str(table),
            "folder": str(folder),
            "seconds": seconds,
            "wall": _WALL * seconds,
            "bytes": memory,
        }
    )
    if code > DISK:
        guard_disk(folder, partial(_refuse_disk, code - DISK))
    if code > 0 and (folder / BUG).is_file():
        raise _failed(record, (folder / BUG).read_text("utf-8"))
    if code > 0:
        raise load_error(load_reply(folder))
    if code < 0:
        raise _killed(record, -code, seconds)


def _refuse_disk(number: int) -> NoReturn:
    """Raise what the child met."""
    raise OSError(number, os.strerror(number))


def _failed(record: SliceRecord, trace: str) -> BadInputError:
    """Return the error of a reader that raised what it should not have; the trace is kept.

    Whether the file or the reader is at fault, this slice is named and the others go on.
    """
    with tempfile.NamedTemporaryFile(
        "w", prefix="stcorpus-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(trace)
    said = trace.strip().splitlines()[-1][:160]
    fix = (
        "get the file again, or write it again with its own tool; if it opens elsewhere, please "
        f"report it with {file.name}"
    )
    return BadInputError(
        Problem(
            code="B017",
            subject=f"slice '{record.name}'",
            where=record.path,
            what=f"reader failed with {said}",
            fix=fix,
        )
    )


def _killed(record: SliceRecord, number: int, seconds: int) -> BadInputError:
    code, what = "B017", f"reader killed by {signal.Signals(number).name}"
    fix = "the file is damaged: get it again, or write it again with its own tool"
    if number in (signal.SIGALRM, signal.SIGXCPU):
        limit = f"{seconds} s of CPU time"
        if number == signal.SIGALRM:
            limit = f"{_WALL * seconds} s by the clock"
        code, what = "B018", f"its reader did not end within {limit}"
        fix = "allow more with --probe-timeout, if the file is what you think it is"
    return BadInputError(
        Problem(code=code, subject=f"slice '{record.name}'", where=record.path, what=what, fix=fix)
    )
