"""The same corpus again, from its lock and the sources: byte for byte, or it says what differs.

Sources are checked against their digests before any work; grids and shards against theirs after.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from stbuild.build.building import build_corpus
from stbuild.build.growth import GIVEN, locked_growth
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus import names
from stbuild.corpus.digests import lines_digest, sha256_file
from stbuild.corpus.documents import (
    CorpusDocument,
    as_error,
    document_problems,
    read_document,
)
from stbuild.corpus.errors import BadInputError, BadUsageError, IntegrityError, Problem
from stbuild.corpus.index import read_genes
from stbuild.corpus.lock import LockDocument, LockedGrid
from stbuild.corpus.paths import look_at
from stbuild.corpus.storage import read_file
from stbuild.genes.vocabulary import share_of
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import Manifest
from stbuild.reading.jail import Limits
from stbuild.slices import SliceRecord
from stbuild.tasks.pipeline import Runner


@dataclass(frozen=True, kw_only=True)
class RebuildReport:
    """How a rebuilt corpus compares with its lock."""

    document: CorpusDocument
    n_same_bytes: int
    """Shards that are the same bytes."""
    other_bytes: tuple[str, ...]
    """Shards of the same content but other bytes: another build of a compressor."""
    tools: tuple[str, ...]
    """Versions that differ from the lock, in words."""


def read_lock(path: Path) -> LockDocument:
    """Read a ``corpus.lock.json``, or that of a corpus folder.

    Raises
    ------
    BadInputError
        No such file.
    IntegrityError
        Not a lock that this version knows.
    """
    file = path / names.LOCK_JSON if look_at(path).is_folder else path
    if not (look := look_at(file)).is_file:
        problem = Problem(
            code="B001",
            subject=f"lock '{path.name}'",
            where=str(file),
            what=look.fault or "not a file",
            fix=f"give a {names.LOCK_JSON}, or a corpus folder",
        )
        raise BadInputError(problem)
    lock = read_document(LockDocument, read_file(file), str(file))
    if error := as_error(_lock_problems(lock, str(file)), IntegrityError):
        raise error
    return lock


def _lock_problems(lock: LockDocument, where: str) -> Iterator[Problem]:
    """Yield what a rebuild must not follow: unknown keys, and names that no digest stands for."""
    for rule in lock.vocabulary_rules:
        try:
            share_of("union" if rule == GIVEN else rule)
        except BadUsageError:
            what = f"{rule!r} is no rule of a vocabulary"
            subject = "key 'vocabulary_rules'"
            yield Problem(code="C01", subject=subject, where=where, what=what, fix=_FOREIGN)
    for grid in lock.grids:
        place = f"{where}: grid '{grid.slug}'"
        try:
            GridConfig.model_validate(GridConfig().model_dump() | grid.config)
        except ValidationError as error:
            yield from document_problems(error, GridConfig, grid.config, place, "C01", _FOREIGN)
        named = [file.name for file in grid.sources]
        for key in ("path", "positions", "labels_file", "gene_table"):
            name = getattr(grid.origin, key)
            if name is not None and not any(_is_or_holds(name, file) for file in named):
                what = f"{name!r} is none of its sources, nor a folder of them"
                yield Problem(
                    code="C01", subject=f"key 'origin.{key}'", where=place, what=what, fix=_FOREIGN
                )
        if away := [name for name in (*named, grid.origin.path) if Path(name).is_absolute()]:
            what = f"{away[0]!r} is absolute; names start from --sources"
            yield Problem(code="C01", subject="key 'sources'", where=place, what=what, fix=_FOREIGN)


def _is_or_holds(name: str, file: str) -> bool:
    return file == name or file.startswith(f"{name.rstrip('/')}/")


def rebuild_corpus(
    lock_path: Path,
    sources: Path,
    out: Path,
    grids: Path,
    runner: Runner,
    *,
    limits: Limits | None = None,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> RebuildReport:
    """Build a corpus again and compare it with its lock.

    Parameters
    ----------
    lock_path
        The lock, or the corpus folder that it stands in.
    sources
        Folder that the names of the sources are relative to.
    out, grids
        Folders of the corpus and of its grids; a rerun resumes.
    runner
        How tasks are run.
    limits
        Limits of the processes that read foreign files; None reads in the workers.
    started
        Called with each stage and its number of tasks; returns what to call after each task.

    Raises
    ------
    BadInputError
        No lock, or a gene list that it needs is missing.
    IntegrityError
        Sources that are missing or changed, all of them at once, before any work; grids or shards
        whose content is not that of the lock.
    """
    lock = read_lock(lock_path)
    if error := as_error(_source_problems(lock, sources), IntegrityError):
        raise error
    growth = locked_growth(lock, _given_genes(lock, lock_path))
    records = tuple(_record(grid, sources) for grid in lock.grids)
    tables = {grid.origin.gene_table for grid in lock.grids} - {None}
    table = None if not tables else sources / str(tables.pop())
    manifest = Manifest(name=lock.config.name, records=records)
    done = started("slices", len(records))
    compact(manifest, GridConfig(), grids, runner, table=table, limits=limits, done=done)
    # Whether ids or species may be mixed was settled when the corpus was built.
    inputs = gather_inputs(grids, lock.config, growth, mixed_ids=True, mixed_species=True)
    made = {meta.slug: meta.content for meta in inputs.metas}
    problems = [
        _problem(f"grid '{grid.slug}'", "its content is not that of the lock", _DIFFERS)
        for grid in lock.grids
        if made[grid.slug] != grid.content
    ]
    if error := as_error(problems, IntegrityError):
        raise error
    document = build_corpus(inputs, out, runner, started=started).document
    return _compare(lock, document)


_FOREIGN = "get the lock again from its source: this one is damaged, or no build wrote it"
_DIFFERS = "build with the versions in the lock (`tools`), and report it: content must not differ"


def _source_problems(lock: LockDocument, sources: Path) -> list[Problem]:
    found: dict[str, Problem] = {}
    for grid in lock.grids:
        for file in grid.sources:
            path = sources / file.name
            if not (look := look_at(path)).is_file:
                what = look.fault or "not a file"
            elif path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
                what = f"its size or SHA-256 is not {file.bytes:,} bytes, {file.sha256[:16]}..."
            else:
                continue
            fix = "get the file that the lock names; --sources is the folder that names start from"
            found[file.name] = Problem(
                code="P20", subject=f"source '{file.name}'", where=str(path), what=what, fix=fix
            )
    return list(found.values())


def _given_genes(lock: LockDocument, lock_path: Path) -> list[str]:
    """Return the vocabulary where genes were given when it was built; else nothing is needed."""
    if GIVEN not in lock.vocabulary_rules:
        return []
    folder = lock_path if lock_path.is_dir() else lock_path.parent
    file = folder / names.GENES_PARQUET
    if not file.is_file():
        what = f"the corpus was built over a given gene list, but there is no {file.name} here"
        fix = f"put {file.name} of the corpus beside the lock"
        raise BadInputError(_problem(f"lock '{lock_path.name}'", what, fix))
    genes = read_genes(read_file(file), str(file))
    if lines_digest(genes) != lock.vocabulary.digest:
        what, fix = "its genes are not those of the lock", "get the file of the same corpus"
        raise IntegrityError(_problem(f"genes '{file.name}'", what, fix))
    return genes


def _record(grid: LockedGrid, sources: Path) -> SliceRecord:
    origin = grid.origin
    return SliceRecord(
        **{key: getattr(grid, key) for key in _FROM_LOCK},
        path=str(sources / origin.path),
        source_name=origin.path,
        base=str(sources),
        positions=None if origin.positions is None else str(sources / origin.positions),
        labels_file=None if origin.labels_file is None else str(sources / origin.labels_file),
        split_by=origin.split_by,
        part=origin.part,
        grid=grid.config,
    )


_FROM_LOCK = (
    "slug", "name", "split", "donor", "section", "pair", "species", "tissue", "platform", "licence",
)  # fmt: skip


def _compare(lock: LockDocument, document: CorpusDocument) -> RebuildReport:
    made = {shard.path: shard for shard in document.shards}
    wanted = {shard.path: shard for shard in lock.shards}
    problems = [
        _problem(f"shard '{path}'", "the lock has no such shard, or the build has not", _DIFFERS)
        for path in sorted(made.keys() ^ wanted.keys())
    ]
    same = list(made.keys() & wanted.keys())
    problems += [
        _problem(f"shard '{path}'", "its content is not that of the lock", _DIFFERS)
        for path in sorted(same)
        if made[path].content != wanted[path].content
    ]
    if error := as_error(problems, IntegrityError):
        raise error
    other = tuple(sorted(p for p in same if made[p].sha256 != wanted[p].sha256))
    return RebuildReport(
        document=document,
        n_same_bytes=len(same) - len(other),
        other_bytes=other,
        tools=tuple(_tool_changes(lock)),
    )


def _tool_changes(lock: LockDocument) -> list[str]:
    changes = []
    for name, locked in sorted(lock.tools.items()):
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "not installed"
        if here != locked:
            changes.append(f"{name}: {locked} -> {here}")
    return changes


def _problem(subject: str, what: str, fix: str) -> Problem:
    return Problem(code="P20", subject=subject, what=what, fix=fix)
