"""What a finished folder holds, by its own documents: a corpus, a release, or grids.

One of its files says that it is finished; it is sent after all others.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.errors import BadInputError, IntegrityError, Problem
from stbuild.corpus.storage import read_file
from stbuild.grid.catalogue import GRIDS_JSON, read_catalogue
from stbuild.publish.push.faults import bad_release

_LINE: Final = re.compile(rf"([0-9a-f]{{64}})  ({names.FILE_PATTERN.strip('^$')})")


@dataclass(frozen=True, kw_only=True)
class FinishedFile:
    """One file, with the digest that its folder's documents give it."""

    path: str
    source: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FinishedFolder:
    """All files of a finished folder."""

    root: Path
    files: tuple[FinishedFile, ...]
    """All but the mark; the documents that vouch for others come last."""
    mark: FinishedFile
    """The file whose presence means that the folder is whole."""


def list_finished(root: Path) -> FinishedFolder:
    """List what a corpus, a release or a folder of grids holds, and compare it with the disk.

    Raises
    ------
    BadInputError
        Nothing finished stands there.
    IntegrityError
        Files that are missing, damaged, or not listed; all of them are named.
    """
    if (root / names.CORPUS_JSON).is_file():
        sums, mark = _read_sums(root), names.CORPUS_JSON
        sums[names.CHECKSUMS] = sha256_file(root / names.CHECKSUMS)
    elif (root / GRIDS_JSON).is_file():
        sums, mark = _read_grids(root), GRIDS_JSON
    else:
        what = f"neither {names.CORPUS_JSON} nor {GRIDS_JSON}: nothing finished stands here"
        fix = "finish it first: run the same `compact`, `shard` or `publish` again"
        raise BadInputError(
            Problem(
                code="P51", subject=f"folder '{root.name}'", where=str(root), what=what, fix=fix
            )
        )
    _require_whole(root, sums)
    # The checksums before the document that they, too, are about.
    order = sorted(sums, key=lambda path: (path == names.CHECKSUMS, path))
    found = {path: _file(root, path, sums[path]) for path in order}
    return FinishedFolder(
        root=root,
        files=tuple(file for path, file in found.items() if path != mark),
        mark=found[mark],
    )


def _file(root: Path, path: str, sha256: str) -> FinishedFile:
    source = root / path
    return FinishedFile(path=path, source=source, bytes=source.stat().st_size, sha256=sha256)


def _read_sums(root: Path) -> dict[str, str]:
    path = root / names.CHECKSUMS
    lines = read_file(path).decode("utf-8", "replace").splitlines() if path.is_file() else []
    found = [_LINE.fullmatch(line) for line in lines]
    sums = {line[2]: line[1] for line in found if line is not None}
    if len(sums) < len(lines) or names.CORPUS_JSON not in sums or names.CHECKSUMS in sums:
        what = f"no list of checksums, of which every line is one file, {names.CORPUS_JSON} too"
        raise bad_release(str(path), what, "run `stbuild repair` on the corpus, or publish again")
    return sums


def _read_grids(root: Path) -> dict[str, str]:
    # Zarr is needed for grids alone.
    from stbuild.grid.store import INVENTORY, check_grid, read_inventory

    sums = {GRIDS_JSON: sha256_file(root / GRIDS_JSON)}
    problems: list[Problem] = []
    for entry in read_catalogue(root).grids:
        grid = root / entry.file_name
        problems += check_grid(grid)
        inventory = read_inventory(grid)
        if inventory is not None:
            sums |= {f"{entry.file_name}/{file.path}": file.sha256 for file in inventory.files}
            sums[f"{entry.file_name}/{INVENTORY}"] = sha256_file(grid / INVENTORY)
    if problems:
        raise IntegrityError(*problems)
    return sums


def _require_whole(root: Path, sums: dict[str, str]) -> None:
    problems = []
    for path, digest in sums.items():
        source = root / path
        if source.is_symlink() or not source.is_file():
            problems.append(_damaged(root, path, "missing, or not a regular file"))
        elif sha256_file(source) != digest:
            problems.append(_damaged(root, path, "its SHA-256 is not the one that is listed"))
    found = [p.relative_to(root) for p in sorted(root.rglob("*")) if not p.is_dir()]
    extra = [p.as_posix() for p in found if p.parts[0] != names.WORK_DIR]
    problems += [_damaged(root, p, "listed nowhere") for p in extra if p not in sums]
    if problems:
        raise IntegrityError(*problems[:50])


def _damaged(root: Path, path: str, what: str) -> Problem:
    fix = "run `stbuild verify` (or `compact`) on the folder; `stbuild repair` mends a corpus"
    return Problem(code="P59", subject=f"file '{path}'", where=str(root / path), what=what, fix=fix)
