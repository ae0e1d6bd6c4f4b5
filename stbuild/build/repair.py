"""Mending a damaged corpus from its grids: only what is bad is written again, and it is proved.

A repaired file must be the bytes that ``corpus.json`` names; nothing else is ever put in place.
That document is believed as far as it fits: itself, the lock and ``SHA256SUMS``, which are the only
witnesses against it, so the checksums are written last, and only where all the rest agrees.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stbuild.build.assemble import list_checksums, make_tables
from stbuild.build.building import cut_parts, list_members
from stbuild.build.certify import certify_build
from stbuild.build.growth import GIVEN, Growth, locked_growth, part_given
from stbuild.build.inputs import BuildInputs, gather_inputs
from stbuild.build.shards import plan_shards, shard_task, write_shard
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    ShardEntry,
    as_error,
    read_document,
)
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import (
    BadInputError,
    ConflictError,
    IntegrityError,
    Problem,
    merge_errors,
)
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.release import RELEASE_JSON
from stbuild.corpus.storage import read_file
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.catalogue import read_catalogue
from stbuild.tasks.pipeline import Runner
from stbuild.verify.claims import check_claims, check_document
from stbuild.verify.files import UNLINK, find_link, is_plain, listed_files
from stbuild.verify.problems import bad
from stbuild.workspace import clear_scratch, hold_folder

_UNLISTED = (
    "get it again from its source, or build the corpus again; only if SHA256SUMS is the damaged "
    "one, remove that and run repair again"
)


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What was wrong, and is right again."""

    shards: tuple[str, ...]
    tables: tuple[str, ...]


def repair_corpus(
    root: Path,
    grids: Path,
    runner: Runner,
    vocabulary: Vocabulary | None = None,
    *,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> RepairReport:
    """Write every missing or damaged file of a corpus again from its grids.

    Parameters
    ----------
    root
        Corpus folder; its ``corpus.json`` must be whole.
    grids
        The grids that it was built from.
    runner
        How tasks are run.
    vocabulary
        The genes that were given when it was built; only needed if its ``genes.parquet`` is
        damaged too and they were given.
    started
        Called with each stage and its number of tasks; returns what to call after each task.

    Raises
    ------
    BadInputError
        It is a release, whose checksums cover more than the grids can tell; or no finished grids
        stand in `grids`, whether or not there is anything to mend.
    ConflictError
        The grids are not those of the corpus.
    IntegrityError
        ``corpus.json`` is damaged or was edited, or a folder is a link, and nothing was written; or
        what was written is not what the document says, and was not kept.
    """
    corpus = open_corpus(root)
    document = corpus.document
    if (root / RELEASE_JSON).is_file():
        fix = "get the bad files again from where it is published, or repair the corpus it is of"
        raise BadInputError(_problem(f"release '{root.name}'", "it is a release", fix))
    _refuse_links(corpus)
    shards = [shard for shard in document.shards if _is_bad(root, shard)]
    tables = [file.path for file in document.files if _is_bad(root, file)]
    read_catalogue(grids)
    _require_document(corpus, [*(shard.path for shard in shards), *tables])
    if shards or tables:
        inputs = _gather(root, grids, document, vocabulary)
        with hold_folder(root) as work:
            _mend(inputs, root, work, document, shards, tables, runner, started)
            clear_scratch(root)
    if _read_checksums(root) != (sums := list_checksums(document)):
        _require_claims(corpus, grids, vocabulary)
        write_durable(root / names.CHECKSUMS, sums)
        tables.append(names.CHECKSUMS)
    return RepairReport(shards=tuple(s.path for s in shards), tables=tuple(tables))


def _require_document(corpus: Corpus, damaged: Sequence[str]) -> None:
    """Refuse to mend by a ``corpus.json`` that is damaged itself, or was edited.

    Raises
    ------
    IntegrityError
        It contradicts itself or the lock; or its checksum is another one, and more is damaged than
        the checksums.
    """
    where = corpus.root / names.CORPUS_JSON
    problems = list(check_document(corpus, {str(corpus.root / path) for path in damaged}, {}))
    if read_file(where) != corpus.document.to_bytes():
        problems.append(bad(where, "its bytes are not the form that a corpus.json is written in"))
    if problems or (damaged and _listed_otherwise(corpus.root)):
        raise IntegrityError(*_unlisted(corpus.root), *problems)


def _require_claims(corpus: Corpus, grids: Path, given: Vocabulary | None) -> None:
    """Refuse to write checksums over a corpus whose documents and tables do not all agree.

    Raises
    ------
    ConflictError
        ``corpus.json`` has another checksum, and the grids are not those that it tells of.
    IntegrityError
        Files that contradict each other.
    """
    if problems := check_claims(corpus, ()).problems:
        raise IntegrityError(*_unlisted(corpus.root), *problems)
    if _listed_otherwise(corpus.root):
        _gather(corpus.root, grids, corpus.document, given)


def _unlisted(root: Path) -> Iterator[Problem]:
    if _listed_otherwise(root):
        what = "its SHA-256 is not the one in SHA256SUMS"
        yield bad(root / names.CORPUS_JSON, what, _UNLISTED)


def _listed_otherwise(root: Path) -> bool:
    """Tell whether ``SHA256SUMS`` has a line for ``corpus.json``, and with another digest."""
    lines = (line.split(b"  ", 1) for line in _read_checksums(root).splitlines())
    listed = [line[0] for line in lines if line[1:] == [names.CORPUS_JSON.encode()]]
    return bool(listed) and sha256_file(root / names.CORPUS_JSON).encode() not in listed


def _read_checksums(root: Path) -> bytes:
    path = root / names.CHECKSUMS
    return read_file(path) if is_plain(root, names.CHECKSUMS) else b""


def _refuse_links(corpus: Corpus) -> None:
    """Refuse folders that are links: what is written would be written elsewhere.

    Raises
    ------
    IntegrityError
        All of them; a file that is a link is merely replaced.
    """
    paths = set(listed_files(corpus.document, None))
    links = {link for path in paths if (link := find_link(corpus.root, path))} - paths
    problems = [
        bad(corpus.root / link, "a link, not a folder of the corpus", UNLINK)
        for link in sorted(links)
    ]
    if problems:
        raise IntegrityError(*problems)


def _is_bad(root: Path, entry: FileEntry | ShardEntry) -> bool:
    path = root / entry.path
    if not is_plain(root, entry.path) or path.stat().st_size != entry.bytes:
        return True
    return sha256_file(path) != entry.sha256


def _mend(
    inputs: BuildInputs,
    root: Path,
    work: Path,
    document: CorpusDocument,
    shards: list[ShardEntry],
    tables: list[str],
    runner: Runner,
    started: Callable[[str, int], Callable[[], None]],
) -> None:
    parts = cut_parts(inputs, work, runner, started)
    plans = plan_shards(list_members(inputs, parts), inputs.config)
    bad = {shard.path for shard in shards}
    tasks = [
        shard_task(plan, work / "mended", work, inputs.fingerprint)
        for plan in plans
        if plan.path in bad
    ]
    outcomes = runner(write_shard, tasks, started("shards", len(tasks)))
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise merge_errors(errors)
    made = {o.result.path: o.result for o in outcomes if o.result is not None}
    problems = [
        _other(shard.path, same_content=made[shard.path].content == shard.content)
        for shard in shards
        if made[shard.path].sha256 != shard.sha256
    ]
    contents = make_tables(inputs, plans, document.shards, certify_build(inputs))
    wanted = {file.path: file.sha256 for file in document.files}
    problems += [
        _other(path, same_content=False)
        for path in tables
        if path in contents and sha256_bytes(contents[path]) != wanted[path]
    ]
    if error := as_error(problems, IntegrityError):
        raise error
    for shard in shards:
        write_durable(root / shard.path, read_file(work / "mended" / shard.path))
    for path in tables:
        if path in contents:
            write_durable(root / path, contents[path])


def _gather(
    root: Path, grids: Path, document: CorpusDocument, given: Vocabulary | None
) -> BuildInputs:
    """Gather what decided the corpus; its vocabulary by the rule in its lock, or as given."""
    for growth in _growths(root, document, given):
        inputs = gather_inputs(grids, document.config, growth, mixed_ids=True, mixed_species=True)
        if inputs.fingerprint == document.fingerprint:
            return inputs
    fix = "give the right folder (and --vocabulary), or `stbuild rebuild corpus.lock.json`"
    what = "not the grids that this corpus was built from"
    raise ConflictError(_problem(f"grids '{grids.name}'", what, fix))


def _growths(root: Path, document: CorpusDocument, given: Vocabulary | None) -> Iterator[Growth]:
    """Yield how the corpus may have come about, by what of it is whole; the surest first."""
    files = {file.path: file for file in document.files}
    sizes, genes = document.vocabulary.sizes, () if given is None else given.genes
    known: dict[str, Any] = {"labels": document.labels}
    if not _is_bad(root, files[names.GENES_PARQUET]):
        genes = tuple(open_corpus(root).genes)
    known["generation_of"] = {entry.slug: entry.generation for entry in document.slices}
    lock = root / names.LOCK_JSON
    if not _is_bad(root, files[names.LOCK_JSON]):
        locked = read_document(LockDocument, read_file(lock), str(lock))
        if genes or GIVEN not in locked.vocabulary_rules:
            yield locked_growth(locked, genes)
    else:
        yield Growth(rules=("union",) * len(sizes), **known)
    if genes:
        yield Growth(rules=part_given(genes, sizes), **known)


def _other(path: str, *, same_content: bool) -> Problem:
    what = "written again, it has other content than corpus.json says"
    if same_content:
        what = "written again, it has the same content but other bytes: another build of a library"
    return _problem(f"file '{path}'", what, "use the versions in corpus.lock.json (`tools`)")


def _problem(subject: str, what: str, fix: str) -> Problem:
    return Problem(code="P20", subject=subject, what=what, fix=fix)
