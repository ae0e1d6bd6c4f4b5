"""Files that are either absent or whole: temporary file, fsync, read-back, rename, fsync.

The digest is taken of the bytes meant to be written and compared with what was stored, so a
short or lying write is caught before the file gets its name.
"""

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
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
    path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool = True
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
    return guard_disk(path, lambda: _write(path, blocks, read_back=read_back))


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
        if read_back and sha256_file(temporary) != digest.hexdigest():
            problem = Problem(
                code="P06",
                subject=f"file '{path.name}'",
                where=str(path),
                what="what was read back differs from what was written",
                fix="check the disk; nothing was published, a rerun writes the file again",
            )
            raise IntegrityError(problem)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(path.parent)
    return size, digest.hexdigest()


_FIX: Final = (
    "free space or choose a writable -o folder, then run the same command again; finished work is "
    "kept"
)


def guard_disk(path: Path, action: Callable[[], Result], fix: str = _FIX) -> Result:
    """Run `action` and turn an operating-system refusal into an error that says what to do.

    Parameters
    ----------
    path
        What is written.
    action
        What writes it.
    fix
        What the user should do next.

    Raises
    ------
    ResourceError
        No space, no permission, a read-only file system, an I/O error.
    """
    try:
        return action()
    except OSError as error:
        problem = Problem(
            code="P05",
            subject=f"output '{path.name}'",
            where=str(error.filename or path),
            what=f"cannot be written: {error.strerror or error}",
            fix=fix,
        )
        raise ResourceError(problem) from error
