"""``NAME.fetched.json``: what was fetched, with the hashes that were found.

A null hash of the sheet gets its value here, so that a lock can take it and the next run notices
a file that has changed at its source. Nothing in it tells when or by whom.
"""

from pathlib import Path
from typing import Literal

from stbuild.corpus.documents import Count, Document, Sha256, read_document
from stbuild.corpus.durable import write_durable
from stbuild.corpus.storage import read_file


class FetchedFile(Document):
    """One file that stands at its place."""

    path: str
    """As the sheet names it."""
    url: str
    """Where it came from, without its query."""
    member: str | None
    """Member of the archive at the URL."""
    bytes: Count
    sha256: Sha256
    """Of the file at its place."""
    source_bytes: Count | None
    source_sha256: Sha256 | None
    """Of what the URL gave; None where the file was there before anything was asked for."""
    verified: bool
    """Whether the sheet knew the hash."""


class FetchedDocument(Document):
    """All fetched files of a manifest, in the order of its sheet."""

    format: Literal["stcorpus/fetched"] = "stcorpus/fetched"
    version: Literal[1] = 1
    name: str
    """Name of the corpus."""
    files: tuple[FetchedFile, ...]


def read_record(path: Path) -> dict[str, FetchedFile]:
    """Return what earlier runs fetched, by path; nothing where there is no record.

    Raises
    ------
    IntegrityError
        The record is damaged.
    """
    if not path.is_file():
        return {}
    document = read_document(FetchedDocument, read_file(path), str(path))
    return {file.path: file for file in document.files}


def write_record(path: Path, document: FetchedDocument) -> None:
    """Write the record, unless it stands there already.

    Raises
    ------
    ResourceError
        The folder cannot be written.
    """
    raw = document.to_bytes()
    if not path.is_file() or read_file(path) != raw:
        write_durable(path, raw)
