"""A digest inside a file of ours, so that damage is told before anything parses its bytes.

A seal is ``sttrain-sha256:`` and 64 hexadecimal digits, the SHA-256 of all other bytes of the file
(and, where a file may have one name only, of that name and a NUL before them).
It stands where readers of the format do not look: behind the end of an HDF5 file, before the footer
of a Parquet file; in a JSON document it is the key ``seal``. Tools that write an HDF5 or Parquet
file anew leave it out, so files of others are read as they are; whoever edits a file in place and
keeps its seal is told.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field

from stbuild.corpus.documents import Document, read_document
from stbuild.corpus.jsonio import dump_document
from stbuild.corpus.storage import read_file
from sttrain.errors import IntegrityError, Problem

MARK: Final = b"sttrain-sha256:"
LENGTH: Final = len(MARK) + 64
"""Bytes of a seal."""
_SEAL: Final = re.compile(re.escape(MARK) + b"(.{0,64})", re.DOTALL)
_KEY: Final = b'\n  "seal": "'
_CHUNK: Final = 2**20
_SHOWN: Final = 16


class SealedDocument(Document):
    """A document that carries its seal; without one it is of an older version."""

    seal: Annotated[str, Field(pattern=rf"^{MARK.decode()}[0-9a-f]{{64}}$")] | None = None

    def to_bytes(self) -> bytes:
        """Return the document as it is written to disk."""
        raw = dump_document(self.model_dump(mode="json") | {"seal": ""})
        return seal(raw, raw.index(_KEY) + len(_KEY))


Sealed = TypeVar("Sealed", bound=SealedDocument)


def seal(raw: bytes, at: int, name: str = "") -> bytes:
    """Put a seal into a file.

    Parameters
    ----------
    raw
        The file without it.
    at
        Where it is put.
    name
        The only name that the file may have; any without it.
    """
    return raw[:at] + MARK + _digest(name, raw[:at], raw[at:]).encode() + raw[at:]


def seal_parquet(raw: bytes, name: str = "") -> bytes:
    """Put a seal before the footer of a Parquet file, where no column's offset leads."""
    footer = int.from_bytes(raw[-8:-4], "little") + 8
    return seal(raw, len(raw) - footer, name)


def find_fault(raw: bytes, name: str = "") -> str | None:
    """Return what is wrong with a sealed file; none where its seal holds, or where none is.

    Parameters
    ----------
    raw
        The file.
    name
        As it was sealed.
    """
    faults = list(_faults(memoryview(raw), name))
    # What a file says may hold a mark of its own; one of them is the seal.
    return faults[-1] if faults and None not in faults else None


def find_fault_at_end(path: Path, *, sealed: bool = False) -> str | None:
    """Return the same of a file that may be large, whose seal stands at its end.

    Parameters
    ----------
    path
        The file.
    sealed
        Whether it has to have a seal.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    left = max(0, path.stat().st_size - LENGTH)
    digest = sha256()
    with path.open("rb") as file:
        file.seek(left)
        told = _SEAL.fullmatch(file.read())
        if told is None:
            return "the seal that it says it has is gone" if sealed else None
        file.seek(0)
        while block := file.read(min(_CHUNK, left)):
            digest.update(block)
            left -= len(block)
    return _compare(told[1], digest.hexdigest())


def read_sealed(model: type[Sealed], path: Path, problem: Problem) -> Sealed:
    """Read a sealed document.

    Parameters
    ----------
    model
        Its type.
    path
        The file.
    problem
        What is raised where it is damaged, all but what is wrong.

    Raises
    ------
    IntegrityError
        It is damaged, or of an unknown version.
    """
    raw = read_file(path)
    if fault := find_fault(raw):
        raise IntegrityError(_said(problem, fault))
    try:
        return read_document(model, raw, str(path))
    except IntegrityError as error:
        found = (f"{p.subject}: {p.what}" for p in error.problems)
        raise IntegrityError(*(_said(problem, what) for what in found)) from error


def _said(problem: Problem, what: str) -> Problem:
    told: dict[str, Any] = problem.as_dict() | {"what": what}
    del told["level"]
    return Problem(**told)


def _faults(raw: memoryview, name: str) -> Iterator[str | None]:
    for found in _SEAL.finditer(raw):
        yield _compare(found[1], _digest(name, raw[: found.start()], raw[found.end() :]), name)


def _compare(told: bytes, came: str, name: str = "") -> str | None:
    if told == came.encode():
        return None
    also = ", or another file under this name" if name else ""
    shown = told[:_SHOWN].decode("ascii", "backslashreplace")
    return (
        f"its bytes have the SHA-256 {came[:_SHOWN]}..., {shown}... was expected: damaged since it "
        f"was written{also}"
    )


def _digest(name: str, *parts: bytes | memoryview) -> str:
    digest = sha256(name.encode() + b"\0" if name else b"")
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
