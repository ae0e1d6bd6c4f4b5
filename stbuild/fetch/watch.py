"""A watchman of one connection: hangs up when no progress is made, however slowly bytes drip.

A socket's own timeout starts anew with every byte; this one needs real progress.
"""

import socket
import threading
from time import monotonic
from types import TracebackType
from typing import Final, Self

_PROGRESS: Final = 1024
"""Bytes that count as progress."""
_LOOK: Final = 0.2
"""Seconds between two looks at the flag that ends everything."""

_current = threading.local()


class Watch:
    """Hang up on a connection that stalls, or when all downloads are to end.

    Parameters
    ----------
    stall
        Seconds in which progress has to be made.
    stop
        Set to end all downloads.
    """

    def __init__(self, stall: float, stop: threading.Event) -> None:
        self._stall, self._stop = stall, stop
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._deadline, self._fed = monotonic() + stall, 0
        self.has_hung_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        _current.watch = self
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.watch = None
        self._done.set()
        self._thread.join()

    def hold(self, sock: socket.socket) -> None:
        """Take a fresh connection into care."""
        with self._lock:
            self._sock = sock

    def feed(self, n_bytes: int) -> None:
        """Note bytes that came."""
        self._fed += n_bytes
        if self._fed >= _PROGRESS:
            self._deadline, self._fed = monotonic() + self._stall, 0

    def _run(self) -> None:
        while not self._done.wait(min(_LOOK, self._stall / 4)):
            if self._stop.is_set() or monotonic() > self._deadline:
                self.has_hung_up = True
                self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            if self._sock is None:
                return
            try:
                # Not the TLS object's own method, which is not made for another thread.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            except OSError:
                self._sock = None  # closed already


def watch_here(sock: socket.socket | None) -> None:
    """Hand a fresh connection to the watchman of this thread, where there is one."""
    watch: Watch | None = getattr(_current, "watch", None)
    if watch is not None and sock is not None:
        watch.hold(sock)
