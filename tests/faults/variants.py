"""What a process may be born into: clocks that jump, programs that are broken on purpose."""

import ctypes
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import stbuild.grid.compact
from stbuild.corpus import durable
from stbuild.grid import store
from stbuild.grid.written import WrittenFiles

YEAR = 365 * 86_400
CLONE_NEWNET = 0x40000000
CALLED_OUT = 99
"""Exit code of a process without a network that wants one."""


def clock_goes_back() -> None:
    """The wall clock says 2099, then jumps back by years, again and again."""
    real, calls = time.time, count()

    def jumping() -> float:
        return real() + (73 - 40 * (next(calls) % 3)) * YEAR

    patch.object(time, "time", jumping).start()
    patch.object(time, "time_ns", lambda: int(jumping() * 1e9)).start()


def write_in_place() -> None:
    """Files grow under their final names."""

    def write(path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool) -> tuple[int, str]:
        del read_back
        raw = blocks if isinstance(blocks, bytes) else b"".join(blocks)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw[: len(raw) // 2])
        time.sleep(0.1)
        with path.open("ab") as file:
            file.write(raw[len(raw) // 2 :])
        return len(raw), sha256(raw).hexdigest()

    patch.object(durable, "_write", write).start()


def write_slowly() -> None:
    """Every file takes a while."""
    real = durable._write

    def write(path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool) -> tuple[int, str]:
        time.sleep(0.3)
        return real(path, blocks, read_back=read_back)

    def write_grid(*arguments: Any) -> None:
        time.sleep(1.0)
        real_grid(*arguments)

    real_grid = store.write_grid
    patch.object(stbuild.grid.compact, "write_grid", write_grid).start()
    patch.object(durable, "_write", write).start()


def never_read_back() -> None:
    """What was meant is believed to be what is stored."""
    real = durable._write

    def write(path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool) -> tuple[int, str]:
        del read_back
        return real(path, blocks, read_back=False)

    patch.object(durable, "_write", write).start()
    patch.object(WrittenFiles, "read_back", lambda *_: None).start()


def never_flush() -> None:
    """What the system holds in memory is believed to be on the disk."""
    patch.object(os, "fsync", lambda _handle: None).start()


def no_network() -> None:
    """There is no network at all, and whoever looks for a machine by name or number ends there."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace of one's own")

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo" or (
            event == "socket.connect" and isinstance(args[1], tuple)
        ):
            os.write(2, f"{event}: {args}\n".encode())
            os._exit(CALLED_OUT)

    sys.addaudithook(watch)


def call_home() -> None:
    """Somebody is told of the run, and nobody of it where that fails."""
    no_network()
    with suppress(OSError), socket.create_connection(("telemetry.example", 443), timeout=1):
        pass


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        clock_goes_back, write_in_place, write_slowly, never_read_back, never_flush, no_network,
        call_home,
    )
}  # fmt: skip
"""By name, as `tests.sttrain.starter` takes them from the variable BROKEN."""
