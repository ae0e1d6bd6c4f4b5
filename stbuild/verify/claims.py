"""What the documents and tables of a corpus say of each other; no shard is opened."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.digests import lines_digest
from stbuild.corpus.documents import (
    CorpusDocument,
    Kind,
    SliceEntry,
    compute_corpus_id,
    is_split,
    read_document,
)
from stbuild.corpus.errors import Problem, StError
from stbuild.corpus.index import (
    SampleIndex,
    read_panels,
    same_tables,
    write_genes,
    write_index,
    write_panels,
    write_slices,
)
from stbuild.corpus.lock import LockDocument, LockedGrid
from stbuild.corpus.reader import Corpus
from stbuild.corpus.split_documents import SplitDocument
from stbuild.leakage.documents import LEAKAGE_JSON, LeakageReport
from stbuild.verify.problems import bad
from stbuild.verify.rows import check_rows, plan_of


@dataclass(kw_only=True)
class Claims:
    """The tables of a corpus as far as they could be read, for the check of its samples."""

    indices: dict[tuple[str, Kind], SampleIndex] = field(default_factory=dict)
    genes: list[str] | None = None
    panels: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    split_spots: dict[str, list["SplitSpots"]] = field(default_factory=dict)
    """Per slug, what the evaluation splits say of its spots."""
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SplitSpots:
    """What an evaluation split says of the spots of a slice."""

    path: str
    barcodes: str
    """Digest of the barcodes."""
    takes_part: NDArray[np.bool_]
    """(N,) spots with a code other than unlabelled, in any assignment."""


def check_claims(corpus: Corpus, damaged: Iterable[str]) -> Claims:
    """Read all documents and tables and compare what they say.

    Parameters
    ----------
    corpus
        The corpus.
    damaged
        Files that are named already: that they cannot be read is not said twice.
    """
    claims, known = Claims(), set(damaged)
    try:
        claims.genes = corpus.genes
    except StError as error:
        _note(claims, error, known)
    try:
        raw = corpus.file(names.PANELS_PARQUET)
        sides = len(corpus.document.slices), corpus.document.vocabulary.n_genes
        claims.panels = read_panels(raw, str(corpus.root / names.PANELS_PARQUET), *sides)
    except StError as error:
        _note(claims, error, known)
    for split, kind in sorted({(s.split, s.kind) for s in corpus.document.shards}):
        try:
            claims.indices[split, kind] = corpus.index(split, kind)
        except StError as error:
            _note(claims, error, known)
    claims.problems += check_document(corpus, known, claims.indices)
    claims.problems += _check_slices(corpus, claims)
    claims.problems += _check_tables(corpus, claims, known)
    claims.problems += check_rows(corpus, claims.indices)
    claims.problems += _check_splits(corpus, claims, known)
    claims.problems += _check_certificate(corpus, known)
    return claims


def _note(claims: Claims, error: StError, known: set[str]) -> None:
    claims.problems += [problem for problem in error.problems if problem.where not in known]


def check_document(
    corpus: Corpus, known: set[str], indices: Mapping[tuple[str, Kind], SampleIndex]
) -> Iterator[Problem]:
    """Yield what in ``corpus.json`` does not follow from the rest of it, or contradicts the lock.

    Parameters
    ----------
    corpus
        The corpus.
    known
        Files that are named already, or are known to be damaged: nothing is said of these.
    indices
        What was read of its indices; with all of them the plan of its shards is compared too.
    """
    yield from _check_identity(corpus)
    yield from _check_lock(corpus, indices, known)


def _check_identity(corpus: Corpus) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / names.CORPUS_JSON
    split_files = [file for file in document.files if is_split(file.path)]
    expected = compute_corpus_id(
        document.config, document.vocabulary, document.labels, document.shards, split_files
    )
    if expected != document.corpus_id:
        yield bad(where, "its corpus_id does not follow from what it says")
    if document.name != document.config.name:
        yield bad(where, f"its name is not that of its configuration, {document.config.name}")
    paths = [shard.path for shard in document.shards] + [file.path for file in document.files]
    if len({path.casefold() for path in paths}) < len(paths):
        yield bad(where, "it lists a file twice, or two that differ only in case")
    slugs = [entry.slug for entry in document.slices]
    if len(set(slugs)) < len(slugs):
        yield bad(where, "it lists a slice twice")
    if any(f"/{shard.split}/" not in shard.path for shard in document.shards):
        yield bad(where, "a shard stands in the folder of another split")
    last = len(document.vocabulary.sizes) - 1
    numbers = {e.generation for e in document.slices} | {s.generation for s in document.shards}
    if max(numbers, default=0) > last:
        yield bad(where, f"a generation beyond the last one, {last}")
    licences = {names.licence_class(entry.licence) for entry in document.slices}
    if any(shard.licence not in licences for shard in document.shards):
        yield bad(where, "a shard of a licence class that no slice has")


_LOCKED = (
    "slug", "generation", "name", "donor", "section", "pair", "species", "tissue", "platform",
    "licence", "sources",
)  # fmt: skip
"""What lock and ``corpus.json`` both say of a slice."""


def _check_lock(
    corpus: Corpus, indices: Mapping[tuple[str, Kind], SampleIndex], known: set[str]
) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / names.LOCK_JSON
    try:
        lock = read_document(LockDocument, corpus.file(names.LOCK_JSON), str(where))
    except StError as error:
        yield from (problem for problem in error.problems if problem.where not in known)
        return
    shards = [(shard.path, shard.sha256, shard.content) for shard in document.shards]
    told = {
        "configuration": lock.config == document.config,
        "vocabulary": lock.vocabulary == document.vocabulary,
        "labels": lock.labels == document.labels,
        "shards": [(s.path, s.sha256, s.content) for s in lock.shards] == shards,
        "slices": [_locked(grid) for grid in lock.grids] == [_locked(e) for e in document.slices],
        "grids": [g.content for g in lock.grids] == [e.grid_content for e in document.slices],
        "generations": len(lock.vocabulary_rules) == len(document.vocabulary.sizes),
    }
    if document.config.cover is None and document.config.assign == "sheet":
        told["splits"] = [g.split for g in lock.grids] == [e.split for e in document.slices]
    if (plan := plan_of(document, indices)) is not None:
        told["plan of the shards"] = lock.plan == plan
    if wrong := [name for name, agrees in told.items() if not agrees]:
        yield bad(where, f"it contradicts corpus.json: {', '.join(wrong)}")


def _locked(entry: SliceEntry | LockedGrid) -> list[object]:
    return [getattr(entry, name) for name in _LOCKED]


def _check_slices(corpus: Corpus, claims: Claims) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / names.PANELS_PARQUET
    if not claims.panels:
        return
    if sorted(claims.panels) != sorted(entry.slug for entry in document.slices):
        yield bad(where, "its slices are not those of corpus.json")
        return
    sizes = document.vocabulary.sizes
    for entry in document.slices:
        # A generation beyond the last is named elsewhere.
        panel, most = claims.panels[entry.slug], sizes[min(entry.generation, len(sizes) - 1)]
        if panel.size != entry.n_vocabulary or bool((panel >= most).any()):
            what = f"slice '{entry.slug}': {panel.size} genes, corpus.json says "
            yield bad(where, f"{what}{entry.n_vocabulary} of the first {most}")


def _check_tables(corpus: Corpus, claims: Claims, known: set[str]) -> Iterator[Problem]:
    """Compare the tables for people with what they are made from."""
    times = Counter(int(gene) for panel in claims.panels.values() for gene in panel)
    expected = {names.SLICES_PARQUET: write_slices(corpus.document.slices)}
    if claims.genes is not None and claims.panels:
        counted = [times[gene] for gene in range(len(claims.genes))]
        expected[names.GENES_PARQUET] = write_genes(claims.genes, counted)
    if claims.panels:
        expected[names.PANELS_PARQUET] = write_panels(claims.panels)
    for (split, kind), index in claims.indices.items():
        expected[names.index_path(split, kind)] = write_index(index)  # no columns beside its own
    for path, made in expected.items():
        where = str(corpus.root / path)
        try:
            same = same_tables(corpus.file(path), made, where)
        except StError as error:
            yield from (problem for problem in error.problems if problem.where not in known)
            continue
        if not same:
            yield bad(where, "its rows do not follow from corpus.json and the other tables")


def _check_splits(corpus: Corpus, claims: Claims, known: set[str]) -> Iterator[Problem]:
    spots = {entry.slug: entry.n_spots for entry in corpus.document.slices}
    for name in corpus.evaluation_splits():
        where = corpus.root / "splits" / f"{name}.json"
        try:
            split = corpus.evaluation_split(name)
        except StError as error:
            yield from (problem for problem in error.problems if problem.where not in known)
            continue
        if name != f"{split.task}@{split.task_version}":
            yield bad(where, f"it says that it is {split.task}@{split.task_version}")
        if strangers := sorted(set(split.undefined) - set(spots)):
            yield bad(where, f"it speaks of '{strangers[0]}', which is no slice of the corpus")
        for slug, barcodes in split.barcodes.items():
            if spots.get(slug) != len(barcodes) or len(set(barcodes)) < len(barcodes):
                yield bad(where, f"slice '{slug}': its barcodes are not one for each spot")
            else:
                claims.split_spots.setdefault(slug, []).append(_take(split, slug, str(where)))


def _take(split: SplitDocument, slug: str, where: str) -> SplitSpots:
    """Keep what the whole slice is compared with: a digest and a bit a spot."""
    takes_part = np.zeros(len(split.barcodes[slug]), bool)
    for assignment in split.assignments:
        if slug in assignment.slices:
            codes = np.frombuffer(assignment.slices[slug].encode("ascii"), np.uint8)
            takes_part |= codes != ord(".")
    digest = lines_digest(split.barcodes[slug])
    return SplitSpots(path=where, barcodes=digest, takes_part=takes_part)


_CHECKED = ("slug", "split", "donor", "section", "pair", "n_spots")
"""What the certificate and ``corpus.json`` both say of a slice."""


def _check_certificate(corpus: Corpus, known: set[str]) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / LEAKAGE_JSON
    if LEAKAGE_JSON not in {file.path for file in document.files}:
        if _needs_certificate(document):
            yield bad(where, "a corpus of several splits has no certificate of leakage")
        return
    try:
        report = read_document(LeakageReport, corpus.file(LEAKAGE_JSON), str(where))
    except StError as error:
        yield from (problem for problem in error.problems if problem.where not in known)
        return
    # More of them are fine: the release of a part keeps the certificate of the whole.
    if any(section.name != f"{section.corpus}/{section.slug}" for section in report.sections):
        yield bad(where, "a section whose name is not that of its corpus and slice")
    told = {tuple(getattr(section, name) for name in _CHECKED) for section in report.sections}
    if not {tuple(getattr(entry, name) for name in _CHECKED) for entry in document.slices} <= told:
        yield bad(where, "its sections are not the slices of corpus.json")
    n_sections = len(report.sections)
    if report.pairs != n_sections * (n_sections - 1) // 2 or report.compared > report.pairs:
        yield bad(where, f"{report.compared} of {report.pairs} pairs of {n_sections} sections")
    if refused := [finding.name for finding in report.findings if finding.refused]:
        yield bad(where, f"{len(refused)} leaks that nobody allowed (first: {refused[0]})")


def _needs_certificate(document: CorpusDocument) -> bool:
    splits = {entry.split for entry in document.slices}
    return len(splits) > 1 or names.BLOCKS in splits
