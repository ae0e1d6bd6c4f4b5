"""Who works in a folder, for those who are refused there; nothing is ever decided by it."""

import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def sign_holder(path: Path) -> None:
    """Write this process, its machine and the time to a file.

    Raises
    ------
    OSError
        The disk refuses.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"pid": os.getpid(), "host": platform.node(), "started": started}
    path.write_text(json.dumps(told), "utf-8")


def name_holder(path: Path) -> str:
    """Return who signed a file, in words."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(path.read_text("utf-8"))
        return f"process {told['pid']} on {told['host']}, since {told['started']}"
    return "an unknown process"
