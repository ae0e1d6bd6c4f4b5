"""What is to be sent: every file of a finished release, read and checked against its checksums."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus import names
from stbuild.corpus.documents import read_document
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.release import RELEASE_JSON, ReleaseDocument
from stbuild.corpus.storage import read_file
from stbuild.publish.push.faults import bad_release, usage
from stbuild.publish.push.targets import Target

ZENODO_FILES: Final = 100
ZENODO_BYTES: Final = 50 * 10**9
"""Limits of one Zenodo record, as its help pages name them."""

_BLOCK: Final = 1 << 20
_LINE: Final = re.compile(rf"([0-9a-f]{{64}})  ({names.FILE_PATTERN.strip('^$')})")
_LAST: Final = (names.CORPUS_JSON, RELEASE_JSON, names.CHECKSUMS)
"""Sent after all that they describe."""


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """One file of a release, whose bytes were checked."""

    path: str
    """Its path in the release."""
    source: Path
    bytes: int
    sha256: str
    remote: str
    """What the remote will call its bytes: MD5 for Zenodo, the id of a Git blob for the Hub."""


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """All that a push sends."""

    root: Path
    target: Target
    files: tuple[LocalFile, ...]
    """In the order of sending; the documents that vouch for the others come last."""
    release: ReleaseDocument
    release_id: str
    """SHA-256 of ``SHA256SUMS``, which fixes every byte of the release."""

    @property
    def bytes(self) -> int:
        """Size of the whole release."""
        return sum(file.bytes for file in self.files)


def plan_push(
    root: Path, target: Target, checked: Callable[[LocalFile], None] = lambda _file: None
) -> PushPlan:
    """Read a release, check every file's SHA-256 and the remote's limits; nothing is sent.

    Raises
    ------
    BadInputError
        No finished release stands there.
    IntegrityError
        Files that are damaged, missing or not listed; all of them are named.
    BadUsageError
        The remote does not take so many files or bytes.
    """
    sums = _read_sums(root)
    _require_limits(root, sums, target)
    _refuse_unlisted(root, sums)
    files, problems = [], []
    for path in sorted(sums, key=lambda path: (path in _LAST, path)):
        try:
            files.append(_read_file(root, path, sums[path], target))
            checked(files[-1])
        except (OSError, ValueError) as error:
            what = str(error) if isinstance(error, ValueError) else f"unreadable: {error.strerror}"
            problems.append(_damaged(root, path, what))
    if problems:
        raise IntegrityError(*problems)
    by_path = {file.path: file for file in files}
    raw = read_file(by_path[RELEASE_JSON].source)
    return PushPlan(
        root=root,
        target=target,
        files=tuple(files),
        release=read_document(ReleaseDocument, raw, str(root / RELEASE_JSON)),
        release_id=by_path[names.CHECKSUMS].sha256,
    )


def require_unchanged(file: LocalFile) -> bytes:
    """Return the bytes of a small file, if they are still those that were planned.

    Raises
    ------
    IntegrityError
        The file changed since.
    """
    raw = read_file(file.source)
    if len(raw) != file.bytes or hashlib.sha256(raw).hexdigest() != file.sha256:
        root = file.source.parents[file.path.count("/")]
        raise IntegrityError(_damaged(root, file.path, "it changed while it was sent"))
    return raw


def _read_sums(root: Path) -> dict[str, str | None]:
    """Return the SHA-256 of every listed file by path; none for the list itself."""
    path, again = root / names.CHECKSUMS, "make it with `stbuild publish CORPUS -o RELEASE`"
    needed = [root / name for name in (*_LAST, "README.md")]
    if missing := [p.name for p in needed if p.is_symlink() or not p.is_file()]:
        what = f"no finished release: it has no {', '.join(missing)}"
        raise bad_release(str(root), what, again)
    if path.stat().st_size > names.MAX_DOCUMENT_BYTES:
        raise bad_release(str(path), "larger than any list of checksums", again)
    lines = read_file(path).decode("utf-8", "replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    paths = [line[2] for line in found if line is not None]
    if len(paths) < len(lines) or len(set(paths)) < len(lines) or names.CHECKSUMS in paths:
        what = "a line is not `SHA-256, two blanks, path`, or a path stands twice"
        raise bad_release(str(path), what, again)
    sums: dict[str, str | None] = {line[2]: line[1] for line in found if line is not None}
    if RELEASE_JSON not in sums or names.CORPUS_JSON not in sums:
        what = f"it does not list {RELEASE_JSON} and {names.CORPUS_JSON}"
        raise bad_release(str(path), what, again)
    return sums | {names.CHECKSUMS: None}


def _require_limits(root: Path, sums: dict[str, str | None], target: Target) -> None:
    if target.kind != "zenodo":
        return
    total = sum((root / path).stat().st_size for path in sums if (root / path).is_file())
    advice = (
        "build with larger shards (--samples-per-shard), release it in parts (--leave-out), "
        "ask Zenodo for a larger quota, or push to hf:ORG/NAME"
    )
    if len(sums) > ZENODO_FILES:
        what = f"{len(sums):,} files; a record of Zenodo takes {ZENODO_FILES}"
        raise usage("P57", f"release '{root.name}'", what, advice)
    if total > ZENODO_BYTES:
        what = f"{total:,} bytes; a record of Zenodo takes {ZENODO_BYTES:,}"
        raise usage("P57", f"release '{root.name}'", what, advice)


def _refuse_unlisted(root: Path, sums: dict[str, str | None]) -> None:
    """Refuse what is not listed: it would be missing at the remote, or is nobody's."""
    found = sorted(p for p in root.rglob("*") if p.is_symlink() or not p.is_dir())
    extra = [p.relative_to(root).as_posix() for p in found]
    if extra := [path for path in extra if path not in sums]:
        what = "not listed in SHA256SUMS"
        raise IntegrityError(*(_damaged(root, path, what) for path in extra[:20]))


def _read_file(root: Path, path: str, sha256: str | None, target: Target) -> LocalFile:
    source = root / path
    if any(p.is_symlink() for p in (source, *source.parents) if p != root and root in p.parents):
        msg = "a link"
        raise ValueError(msg)
    if not source.is_file():
        msg = "missing, or not a regular file"
        raise ValueError(msg)
    size = source.stat().st_size
    # Both names are the services' own, no proof of anything; the SHA-256 is what is believed.
    algorithm = "md5" if target.kind == "zenodo" else "sha1"
    proof, remote = hashlib.sha256(), hashlib.new(algorithm, usedforsecurity=False)
    if target.kind == "hub":
        remote.update(f"blob {size}\0".encode())
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            proof.update(block)
            remote.update(block)
    if sha256 is not None and proof.hexdigest() != sha256:
        msg = "its SHA-256 is not the one in SHA256SUMS"
        raise ValueError(msg)
    return LocalFile(
        path=path, source=source, bytes=size, sha256=proof.hexdigest(), remote=remote.hexdigest()
    )


def _damaged(root: Path, path: str, what: str) -> Problem:
    fix = "run `stbuild verify` on the release, then publish it again to a new folder"
    return Problem(code="P59", subject=f"file '{path}'", where=str(root / path), what=what, fix=fix)
