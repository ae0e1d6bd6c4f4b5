"""Every claim of a corpus, re-checked: files, digests, tar bytes, samples, tables, splits.

Nothing is believed because another part of the corpus says so; each bad file and sample is named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stbuild.corpus import names
from stbuild.corpus.digests import chain_digest, sha256_bytes, sha256_file
from stbuild.corpus.documents import (
    CorpusDocument,
    ShardEntry,
    compute_corpus_id,
    is_split,
    read_document,
)
from stbuild.corpus.errors import IntegrityError, Problem, StError
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import Patch, WholeSlice, decode_patch, decode_whole
from stbuild.corpus.tar import BLOCK, END, pack_sample, unpack_sample


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked and what is wrong."""

    corpus_id: str
    n_files: int
    n_samples: int
    n_bytes: int
    problems: tuple[Problem, ...]


def verify_corpus(
    root: Path, *, quick: bool = False, done: Callable[[], None] = lambda: None
) -> VerifyReport:
    """Check a finished corpus.

    Parameters
    ----------
    root
        Corpus folder.
    quick
        Only sizes and SHA-256 of the files.
    done
        Called after each shard.

    Returns
    -------
    VerifyReport
        Its problems are empty where all is well.

    Raises
    ------
    BadInputError
        No finished corpus stands there.
    IntegrityError
        ``corpus.json`` itself is unreadable.
    """
    corpus = open_corpus(root)
    document = corpus.document
    problems = [*_check_files(corpus), *_check_checksums(corpus), *_check_extra(corpus)]
    bad = {problem.where for problem in problems}
    n_samples = 0
    if not quick:
        problems += _check_documents(corpus)
        for split, kind in sorted({(s.split, s.kind) for s in document.shards}):
            try:
                index = corpus.index(split, kind)
                genes = corpus.genes
            except StError as error:
                problems += [p for p in error.problems if p.where not in bad]
                continue
            for number, shard in enumerate(document.shards_of(split, kind)):
                members = np.flatnonzero(index.shard == number)
                problems += _check_shard(corpus, shard, index, members.tolist(), len(genes))
                n_samples += members.size
                done()
    return VerifyReport(
        corpus_id=document.corpus_id,
        n_files=len(document.shards) + len(document.files) + 2,
        n_samples=n_samples,
        n_bytes=sum(s.bytes for s in document.shards) + sum(f.bytes for f in document.files),
        problems=tuple(problems),
    )


def _listed(document: CorpusDocument) -> dict[str, tuple[int, str]]:
    files = {shard.path: (shard.bytes, shard.sha256) for shard in document.shards}
    return files | {file.path: (file.bytes, file.sha256) for file in document.files}


def _check_files(corpus: Corpus) -> Iterator[Problem]:
    for path, (size, digest) in sorted(_listed(corpus.document).items()):
        file = corpus.root / path
        if file.is_symlink() or not file.is_file():
            yield _bad(file, "missing, or not a regular file")
        elif file.stat().st_size != size:
            yield _bad(file, f"{file.stat().st_size:,} bytes, corpus.json says {size:,}")
        elif sha256_file(file) != digest:
            yield _bad(file, "its SHA-256 is not the one in corpus.json")


def _check_checksums(corpus: Corpus) -> Iterator[Problem]:
    path = corpus.root / names.CHECKSUMS
    if path.is_symlink() or not path.is_file():
        yield _bad(path, "missing, or not a regular file")
        return
    sums = {name: digest for name, (_, digest) in _listed(corpus.document).items()}
    sums[names.CORPUS_JSON] = sha256_file(corpus.root / names.CORPUS_JSON)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    if path.read_bytes() != lines.encode():
        yield _bad(path, "it does not list exactly the files of corpus.json with their SHA-256")


def _check_extra(corpus: Corpus) -> Iterator[Problem]:
    known = {*_listed(corpus.document), names.CORPUS_JSON, names.CHECKSUMS}
    for file in sorted(corpus.root.rglob("*")):
        path = file.relative_to(corpus.root).as_posix()
        if not file.is_dir() and path not in known:
            fix = "remove it, or keep it outside the corpus"
            yield _bad(file, "a file that the corpus does not list", fix)


def _check_documents(corpus: Corpus) -> list[Problem]:
    document, problems = corpus.document, []
    split_files = [file for file in document.files if is_split(file.path)]
    expected = compute_corpus_id(
        document.config, document.vocabulary, document.labels, document.shards, split_files
    )
    if expected != document.corpus_id:
        problems.append(_bad(corpus.root / names.CORPUS_JSON, "its corpus_id does not follow"))
    try:
        where = str(corpus.root / names.LOCK_JSON)
        lock = read_document(LockDocument, corpus.file(names.LOCK_JSON), where)
        locked = [(grid.slug, grid.content) for grid in lock.grids]
        if lock.config != document.config or locked != [
            (entry.slug, entry.grid_content) for entry in document.slices
        ]:
            problems.append(_bad(corpus.root / names.LOCK_JSON, "it contradicts corpus.json"))
        for name in corpus.evaluation_splits():
            corpus.evaluation_split(name)
    except StError as error:
        problems += error.problems
    return problems


def _check_shard(
    corpus: Corpus, shard: ShardEntry, index: SampleIndex, members: list[int], n_genes: int
) -> list[Problem]:
    path = corpus.root / shard.path
    if path.is_symlink() or not path.is_file():
        return []  # named already
    problems: list[Problem] = []
    chain: list[tuple[str, bytes]] = []
    position = 0
    with path.open("rb") as file:
        for i in members:
            if int(index.offset[i]) != position:
                what = f"sample {index.keys[i]} is not where the one before it ends"
                problems.append(_bad(path, what))
            position = int(index.offset[i]) + int(index.size[i])
            file.seek(int(index.offset[i]))
            raw = file.read(int(index.size[i]))
            try:
                content = _check_sample(corpus, shard, index, i, raw, n_genes)
            except IntegrityError as error:
                problems += error.problems
                content = b""
            chain.append((index.keys[i], content))
        file.seek(position)
        if file.read() != END:
            problems.append(_bad(path, "it does not end with the two zero blocks of a tar"))
    if chain_digest(chain) != shard.content and not problems:
        problems.append(_bad(path, "its content digest is not the one in corpus.json"))
    return problems


def _check_sample(
    corpus: Corpus, shard: ShardEntry, index: SampleIndex, i: int, raw: bytes, n_genes: int
) -> bytes:
    """Return the content digest of a sample after checking all that is said about it."""
    key = index.keys[i]
    where = f"{corpus.root / shard.path}:{key}"
    if sha256_bytes(raw) != index.sha256[i].tobytes().hex():
        raise IntegrityError(_bad(where, "its bytes fail their digest"))
    found, members = unpack_sample(raw, where)
    packed = pack_sample(found, {suffix: bytes(data) for suffix, data in members.items()})
    if found != key or len(raw) % BLOCK or packed != raw:
        raise IntegrityError(_bad(where, f"its tar headers are not those of sample {key}"))
    sample: Patch | WholeSlice
    sample = decode_patch(members, where) if shard.kind == "patch" else decode_whole(members, where)
    told = (index.slices[i], int(index.observed[i]))
    if isinstance(sample, Patch):
        _check_patch(corpus, sample, where)
        meta = sample.meta
        place = (meta.row, meta.col, meta.draw)
        same = told == (meta.slice, meta.observed) and place == (
            int(index.row[i]),
            int(index.col[i]),
            int(index.draw[i]),
        )
    else:
        same = told == (sample.meta.slice, sample.meta.n_spots)
    if sample.meta.key != key or not same:
        raise IntegrityError(_bad(where, "its json contradicts the index"))
    used = sample.genes
    if used.size and int(used.max()) >= n_genes:
        raise IntegrityError(_bad(where, "a gene index outside the vocabulary"))
    content = sample.content()
    if content != index.content[i].tobytes():
        raise IntegrityError(_bad(where, "its content digest is not the one in the index"))
    return content


def _check_patch(corpus: Corpus, patch: Patch, where: str) -> None:
    config = corpus.document.config
    if patch.meta.shape != (config.genes, config.window, config.window):
        raise IntegrityError(_bad(where, f"shape {patch.meta.shape} is not the corpus's"))
    if bool(patch.counts[:, patch.totals == 0].any()):
        raise IntegrityError(_bad(where, "counts at an unobserved site"))
    if bool(patch.counts[patch.meta.n_genes :].any()):
        raise IntegrityError(_bad(where, "counts in a padding channel"))
    if bool((patch.counts.sum(axis=0, dtype=np.int64) > patch.totals).any()):
        raise IntegrityError(_bad(where, "more counts at a site than its library size"))


def _bad(path: Path | str, what: str, fix: str | None = None) -> Problem:
    name = Path(str(path)).name
    advice = fix or "get the file again from its source, or build the corpus again"
    return Problem(code="P20", subject=f"file '{name}'", where=str(path), what=what, fix=advice)
