"""Which files a slice was read from, as the documents name them: never by an absolute path."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.documents import SourceFile
from stbuild.corpus.lock import Origin
from stbuild.corpus.paths import look_at
from stbuild.slices import SliceRecord


def describe_files(record: SliceRecord, files: Sequence[Path]) -> tuple[SourceFile, ...]:
    """Return name, size and SHA-256 of each file, sorted by name.

    A file is named relative to the manifest; without a manifest, the file or folder that was
    given keeps its bare name, and files beside it theirs.
    """
    described = (
        SourceFile(name=_publish(record, file), bytes=file.stat().st_size, sha256=sha256_file(file))
        for file in files
    )
    return tuple(sorted(described, key=lambda entry: entry.name))


def describe_origin(record: SliceRecord, table: Path | None = None) -> Origin:
    """Return where a slice came from, as it is published."""
    beside = {"positions": record.positions, "labels_file": record.labels_file}
    beside["gene_table"] = None if table is None else str(table)
    named = {
        key: None if path is None else _publish(record, Path(path)) for key, path in beside.items()
    }
    return Origin(path=record.source_name, split_by=record.split_by, part=record.part, **named)


def _publish(record: SliceRecord, file: Path) -> str:
    root = Path(record.path).absolute()
    path = file.absolute()
    if path == root:
        return record.source_name
    if path.is_relative_to(root):
        return f"{record.source_name.rstrip('/')}/{path.relative_to(root).as_posix()}"
    if record.base and not Path(record.source_name).is_absolute():
        return Path(os.path.relpath(path, record.base)).as_posix()
    return path.name


FileState = tuple[int, int, str]
"""Inode, size, and SHA-256 of a file that was named itself."""


def file_states(record: SliceRecord) -> dict[Path, FileState]:
    """Return the state of every file that a slice may be read from; what is not there has none.

    Files of a folder, of which most are not read (pictures of gigabytes), are not hashed.
    """
    named = (record.path, record.positions, record.labels_file)
    places = [Path(name) for name in named if name is not None]
    inside = (
        file for place in places if look_at(place).is_folder for file in sorted(place.rglob("*"))
    )
    found = {}
    for path in (*places, *inside):
        with suppress(OSError):
            if look_at(path).is_file:
                state = path.stat()
                digest = sha256_file(path) if path in places else ""
                found[path] = (state.st_ino, state.st_size, digest)
    return found


def changed_files(
    record: SliceRecord, sources: Sequence[SourceFile], others: Sequence[Path]
) -> list[str]:
    """Return the names of files that are gone or changed since a slice was read from them.

    Parameters
    ----------
    record
        The slice.
    sources
        Its files as they were.
    others
        Files outside the slice's own folder that it may have been read from: tables of
        positions, labels or genes.
    """
    beside = {_publish(record, path): path for path in others}
    changed = []
    for entry in sources:
        path = beside.get(entry.name) or _find(record, entry.name)
        same = path.is_file() and path.stat().st_size == entry.bytes
        if not same or sha256_file(path) != entry.sha256:
            changed.append(entry.name)
    return changed


def _find(record: SliceRecord, name: str) -> Path:
    if name == record.source_name:
        return Path(record.path)
    inside = name.removeprefix(f"{record.source_name.rstrip('/')}/")
    if inside != name:
        return Path(record.path) / inside
    return Path(record.base or Path(record.path).parent) / name
