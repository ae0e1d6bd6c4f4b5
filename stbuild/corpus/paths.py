"""What lies at a path that somebody wrote down; asking never fails, whatever the text is."""

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Look(NamedTuple):
    """What lies at a path."""

    is_file: bool
    is_folder: bool
    fault: str | None
    """Why nothing is known of it, such as ``no such file or folder``."""


def look_at(path: Path) -> Look:
    """Tell what lies at a path, links followed; a name that no file system has is none there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Look(is_file=False, is_folder=False, fault="no such file or folder")
    except OSError as error:
        fault = os.strerror(error.errno or 0)
        return Look(is_file=False, is_folder=False, fault=f"no such file or folder: {fault}")
    except ValueError as error:  # a NUL, or what is no text of the file system
        return Look(is_file=False, is_folder=False, fault=f"no such file or folder: {error}")
    return Look(is_file=stat.S_ISREG(mode), is_folder=stat.S_ISDIR(mode), fault=None)
