"""What lies at a path that somebody wrote down; no text is too odd to ask about it."""

import errno
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

_NOTHING: Final = "no such file or folder"
_ODD: Final = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EACCES)
"""What the path itself is at fault for; all else, such as a disk that fails, is raised."""


class Look(NamedTuple):
    """What lies at a path."""

    is_file: bool
    is_folder: bool
    fault: str | None
    """Why nothing is known of it, such as ``no such file or folder``."""


def look_at(path: Path) -> Look:
    """Tell what lies at a path, links followed; where no file can have such a name, nothing does.

    Raises
    ------
    OSError
        The disk or the network fails.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _fault(_NOTHING)
    except ValueError as error:  # a NUL, or what is no text of the file system
        return _fault(f"{_NOTHING}: {error}")
    except OSError as error:
        if error.errno not in _ODD:
            raise
        return _fault(f"{_NOTHING}: {os.strerror(error.errno)}")
    return Look(is_file=stat.S_ISREG(mode), is_folder=stat.S_ISDIR(mode), fault=None)


def _fault(text: str) -> Look:
    return Look(is_file=False, is_folder=False, fault=text)
