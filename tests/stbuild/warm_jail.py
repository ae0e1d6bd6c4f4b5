"""A reader's server that is a fork of a warm process, where a fresh interpreter costs a second."""

import os
import signal
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from stbuild.corpus.console import NOTICE
from stbuild.reading.jail import Jail
from stbuild.reading.jail_child import serve


class ForkedServer:
    """What :class:`stbuild.reading.jail.Jail` needs of a process, over a fork of this one."""

    def __init__(self) -> None:
        theirs, to_them = os.pipe()
        from_them, ours = os.pipe()
        self._number = os.fork()
        if self._number == 0:
            os.close(to_them)
            os.close(from_them)
            _be_server(theirs, ours)
        os.close(theirs)
        os.close(ours)
        self.stdin = os.fdopen(to_them, "w")
        self.stdout = os.fdopen(from_them)

    def poll(self) -> int | None:
        with suppress(ChildProcessError):
            found, status = os.waitpid(self._number, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if found else None
        return 0

    def terminate(self) -> None:
        os.kill(self._number, signal.SIGTERM)

    def communicate(self) -> None:
        with suppress(OSError):
            self.stdin.close()
        with suppress(ChildProcessError):
            os.waitpid(self._number, 0)
        self.stdout.close()


def _be_server(requests: int, replies: int) -> None:
    for number in (signal.SIGINT, NOTICE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(BaseException), os.fdopen(requests) as asked, os.fdopen(replies, "w") as told:
        serve(asked, told)
    os._exit(0)


def fork_jails() -> None:
    """Let every jail of this process and its forks be a fork."""
    start: Any = staticmethod(ForkedServer)
    patch.object(Jail, "_start", start).start()
