"""Storage that fails under a read: told as that, never taken for damage or for a bug (P06).

A disk with bad sectors or a network file system that went away says nothing about the bytes: they
may be read well the next time, so that nobody must remove them.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stbuild.corpus.errors import Problem, ResourceError

FAILING: Final = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.EBADMSG,
        errno.EUCLEAN, errno.ENOLINK, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
    }
)  # fmt: skip
"""Errors that are the storage's own, whatever was asked of it."""


def failing_storage(error: OSError, path: Path | None = None) -> ResourceError | None:
    """Return what a user is told when storage fails; none for an error of another kind.

    Parameters
    ----------
    error
        What the system said.
    path
        What was read, where that is known better than by the error.
    """
    if error.errno not in FAILING:
        return None
    where = path if error.filename is None else error.filename
    name = "file system" if where is None else f"file '{Path(str(where)).name}'"
    problem = Problem(
        code="P06",
        subject=name,
        where=None if where is None else str(where),
        what=f"cannot be read now: {error.strerror or error}",
        fix="check the disk or the network file system, then run the same command again",
    )
    return ResourceError(problem)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file that is read if the storage fails under it.

    Raises
    ------
    ResourceError
        P06.
    """
    try:
        yield
    except OSError as error:
        if failing := failing_storage(error, path):
            raise failing from error
        raise


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises
    ------
    OSError
        It cannot be opened.
    ResourceError
        P06: the storage fails.
    """
    with reading(path):
        return path.read_bytes()
