"""Parcels: what a task needs and is too large to travel with it.

It lies in the scratch folder of the run, which every worker sees; the task carries its path and
digest. So nothing large passes through a scheduler.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.storage import read_file

_FOLDER: Final = "parcels"


@dataclass(frozen=True)
class Parcel:
    """Where the bytes lie, and what they are."""

    path: Path
    sha256: str

    def read(self) -> bytes:
        """Return the bytes.

        Raises
        ------
        IntegrityError
            They are gone, or are others than were written.
        """
        try:
            raw = read_file(self.path)
        except FileNotFoundError:
            raw = b""
        if sha256_bytes(raw) != self.sha256:
            what = "changed since it was written" if raw else "it is gone, or not seen from here"
            problem = Problem(
                code="P06", subject=f"scratch file '{self.path.name}'", where=str(self.path),
                what=what,
                fix="leave the .work folder alone while a run goes on, then run again",
            )  # fmt: skip
            raise IntegrityError(problem)
        return raw


def write_parcel(work: Path, name: str, raw: bytes) -> Parcel:
    """Write a parcel into a run's scratch folder.

    Parameters
    ----------
    work
        Scratch folder.
    name
        Name of the file.
    raw
        The bytes.

    Raises
    ------
    ResourceError
        The disk refuses.
    """
    path = work.absolute() / _FOLDER / name
    # Its digest travels with the task, so it is not read back here.
    _, digest = write_durable(path, raw, read_back=False)
    return Parcel(path, digest)
