"""Files that are either absent or whole: temporary file, fsync, read-back, rename, fsync.

The digest is taken of the bytes meant to be written and compared with what was stored, so a
short or lying write is caught before the file gets its name.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from io import RawIOBase
from pathlib import Path
from typing import Final, TypeVar

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.errors import IntegrityError, Problem, ResourceError

PARTIAL: Final = ".partial-"
"""Infix of temporary names; such files are ours and may be removed at any time."""

Result = TypeVar("Result")


def partial_name(path: Path) -> Path:
    """Return an unused temporary name beside `path`."""
    return path.with_name(f".{path.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durable(
    path: Path,
    blocks: bytes | Iterable[bytes],
    *,
    read_back: bool = True,
    held: Path | None = None,
) -> tuple[int, str]:
    """Write a file so that it appears whole or not at all.

    Parameters
    ----------
    path
        Final name; its directory is made if needed, an existing file is replaced.
    blocks
        The bytes, or an iterable of them.
    read_back
        Whether to read the file and compare its digest before it gets its name.
    held
        File of the run that holds the folder: where it is gone, so is the folder, which is not
        made anew with nothing but this file in it.

    Returns
    -------
    tuple
        Size in bytes and SHA-256 of the bytes that were meant and are now stored.

    Raises
    ------
    IntegrityError
        What was read back is not what was written.
    ResourceError
        The disk is full, read-only, or otherwise refuses.
    """
    needed = len(blocks) if isinstance(blocks, bytes) else None

    def write() -> tuple[int, str]:
        if held is not None:
            held.stat()
        return _write(path, blocks, read_back=read_back)

    return guard_disk(path, write, needed=needed)


def _write(path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_name(path)
    digest, size = sha256(), 0
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
            for block in (blocks,) if isinstance(blocks, bytes) else blocks:
                file.write(block)
                digest.update(block)
                size += len(block)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if read_back:
            check_stored(temporary, digest.hexdigest(), path)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(path.parent)
    return size, digest.hexdigest()


def check_stored(path: Path, meant: str, final: Path) -> None:
    """Compare a file with the SHA-256 of what was meant, before it gets its final name.

    Raises
    ------
    IntegrityError
        P06: they differ.
    """
    if sha256_file(path) != meant:
        problem = Problem(
            code="P06",
            subject=f"file '{final.name}'",
            where=str(final),
            what="what was read back differs from what was written",
            fix="check the disk; nothing was published, a rerun writes the file again",
        )
        raise IntegrityError(problem)


def append_whole(file: RawIOBase, raw: bytes) -> None:
    """Append to a file without a buffer, which takes a part alone where the disk becomes full.

    What a buffer holds that the disk refused would come back when the file is closed, as an error
    in the place of the first one.
    """
    while raw:
        raw = raw[file.write(raw) :]


_FIX: Final = (
    "free space or choose a writable -o folder, then run the same command again; finished work is "
    "kept"
)


_FIX_GONE: Final = "leave the folder to one run, then run the same command again"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def guard_disk(
    path: Path, action: Callable[[], Result], fix: str = _FIX, *, needed: int | None = None
) -> Result:
    """Run `action` and turn an operating-system refusal into an error that says what to do.

    Parameters
    ----------
    path
        What is written.
    action
        What writes it.
    fix
        What the user should do next.
    needed
        Bytes that are written, where that is known.

    Raises
    ------
    ResourceError
        No space, no permission, a read-only file system, an I/O error.
    """
    try:
        return action()
    except OSError as error:
        raise refused_by_disk(path, error, fix, needed=needed) from error


def refused_by_disk(
    path: Path, error: OSError, fix: str = _FIX, *, needed: int | None = None
) -> ResourceError:
    """Return what a user is told when the system refuses; see `guard_disk`."""
    what = f"cannot be written: {error.strerror or error}"
    if error.errno in _FULL:
        what += f"; {_say_room(path, needed)}"
    elif error.errno == errno.ENOENT:
        what, fix = "gone: something else works in the folder", _FIX_GONE
    # The second name is the target of a copy, a link or a rename.
    where = str(error.filename2 or error.filename or path)
    return ResourceError(
        Problem(code="P05", subject=f"output '{path.name}'", where=where, what=what, fix=fix)
    )


def _say_room(path: Path, needed: int | None) -> str:
    """Say what a file needs and what its disk has left; files without bytes run out, too."""
    wanted = "" if needed is None else f"it needs {needed:,} bytes, "
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    if folder is None:
        return f"{wanted}its folder is gone"
    disk = os.statvfs(folder)
    return (
        f"{wanted}the disk has {disk.f_bavail * disk.f_frsize:,} bytes and {disk.f_favail:,} of "
        f"{disk.f_files:,} file entries (inodes) left"
    )


def remove_leftovers(root: Path) -> None:
    """Remove what dead runs, and dead workers of this one, left under temporary names.

    Only for who holds the folder. A run whose tasks are done calls it again before it says so: a
    worker that was killed while it wrote left its file, and another wrote the whole one.
    """
    for leftover in guard_disk(root, lambda: sorted(root.rglob(f".*{PARTIAL}*"))):
        _remove(leftover)


def remove_dead(folder: Path, name: str = "*") -> None:
    """Remove temporary files of processes of this machine that are no more.

    Parameters
    ----------
    folder
        Where several processes may write at the same time; folders in it are left alone.
    name
        Final name of the files, or a pattern.
    """
    for leftover in sorted(folder.glob(f".{name}{PARTIAL}*")):
        number = leftover.name.rpartition(PARTIAL)[2].partition("-")[0]
        if number.isdecimal() and not _lives(int(number)):
            with suppress(OSError):
                _remove(leftover)


def remove_dead_below(root: Path) -> None:
    """Remove such files from a folder of ours and from the folders in it."""
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        remove_dead(folder)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's, or not of this machine: not ours to remove
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
