"""What the documents and tables of a corpus say of each other; no shard is opened."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.documents import (
    CorpusDocument,
    Kind,
    compute_corpus_id,
    is_split,
    read_document,
)
from stbuild.corpus.errors import Problem, StError
from stbuild.corpus.index import SampleIndex, read_panels, same_tables, write_genes, write_slices
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.reader import Corpus
from stbuild.leakage.documents import LEAKAGE_JSON, LeakageReport
from stbuild.leakage.windows import PlacedWindow, find_overlaps
from stbuild.verify.problems import bad


@dataclass(kw_only=True)
class Claims:
    """The tables of a corpus as far as they could be read, for the check of its samples."""

    indices: dict[tuple[str, Kind], SampleIndex] = field(default_factory=dict)
    genes: list[str] | None = None
    panels: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


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
        claims.panels = read_panels(raw, str(corpus.root / names.PANELS_PARQUET))
    except StError as error:
        _note(claims, error, known)
    for split, kind in sorted({(s.split, s.kind) for s in corpus.document.shards}):
        try:
            claims.indices[split, kind] = corpus.index(split, kind)
        except StError as error:
            _note(claims, error, known)
    claims.problems += _check_identity(corpus)
    claims.problems += _check_lock(corpus, known)
    claims.problems += _check_slices(corpus, claims)
    claims.problems += _check_tables(corpus, claims, known)
    claims.problems += _check_rows(corpus, claims)
    claims.problems += _check_counts(corpus, claims)
    claims.problems += _check_splits(corpus, known)
    claims.problems += _check_certificate(corpus, known)
    return claims


def _note(claims: Claims, error: StError, known: set[str]) -> None:
    claims.problems += [problem for problem in error.problems if problem.where not in known]


def _check_identity(corpus: Corpus) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / names.CORPUS_JSON
    split_files = [file for file in document.files if is_split(file.path)]
    expected = compute_corpus_id(
        document.config, document.vocabulary, document.labels, document.shards, split_files
    )
    if expected != document.corpus_id:
        yield bad(where, "its corpus_id does not follow from what it says")
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


def _check_lock(corpus: Corpus, known: set[str]) -> Iterator[Problem]:
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
        "slices": [(g.slug, g.content, g.generation, g.sources) for g in lock.grids]
        == [(e.slug, e.grid_content, e.generation, e.sources) for e in document.slices],
    }
    if wrong := [name for name, agrees in told.items() if not agrees]:
        yield bad(where, f"it contradicts corpus.json: {', '.join(wrong)}")


def _check_slices(corpus: Corpus, claims: Claims) -> Iterator[Problem]:
    document, where = corpus.document, corpus.root / names.PANELS_PARQUET
    if not claims.panels:
        return
    if sorted(claims.panels) != sorted(entry.slug for entry in document.slices):
        yield bad(where, "its slices are not those of corpus.json")
        return
    for entry in document.slices:
        panel, most = claims.panels[entry.slug], document.vocabulary.sizes[entry.generation]
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
    for path, made in expected.items():
        where = str(corpus.root / path)
        try:
            same = same_tables(corpus.file(path), made, where)
        except StError as error:
            yield from (problem for problem in error.problems if problem.where not in known)
            continue
        if not same:
            yield bad(where, "its rows do not follow from corpus.json and the other tables")


def _check_rows(corpus: Corpus, claims: Claims) -> Iterator[Problem]:
    """Compare the split and donor of every sample with those of its slice."""
    entries = {entry.slug: entry for entry in corpus.document.slices}
    for (split, kind), index in claims.indices.items():
        where = corpus.root / names.index_path(split, kind)
        for i, slug in enumerate(index.slices):
            entry = entries.get(slug)
            if entry is None or entry.split not in (split, names.BLOCKS):
                yield bad(where, f"sample {index.keys[i]}: slice '{slug}' is not of split {split}")
            elif (entry.donor or "") != index.donors[i]:
                yield bad(where, f"sample {index.keys[i]}: its donor is not that of its slice")


def _place(corpus: Corpus, claims: Claims) -> Iterator[PlacedWindow]:
    """Yield the windows of slices that are parted by blocks."""
    document = corpus.document
    parted = {entry.slug for entry in document.slices if entry.split == names.BLOCKS}
    for (split, _), index in claims.indices.items():
        for i, slug in enumerate(index.slices):
            if slug in parted:
                yield PlacedWindow(
                    slug=slug,
                    split=split,
                    row=int(index.row[i]),
                    col=int(index.col[i]),
                    side=document.config.window,
                )


def _check_counts(corpus: Corpus, claims: Claims) -> Iterator[Problem]:
    """Look for keys that stand twice, windows that overlap, slices with other patches than told."""
    document, where = corpus.document, corpus.root / names.CORPUS_JSON
    keys = Counter(key for index in claims.indices.values() for key in index.keys)
    if twice := sorted(key for key, n in keys.items() if n > 1):
        yield bad(where, f"{len(twice)} keys stand twice (first: {twice[0]})")
    for overlap in find_overlaps(_place(corpus, claims)):
        one, two = overlap.splits
        yield bad(where, f"windows of {one} and {two} share cells of slice '{overlap.slug}'")
    patches: Counter[str] = Counter()
    for (_, kind), index in claims.indices.items():
        patches.update(index.slices if kind == "patch" else ())
    complete = {(s.split, s.kind) for s in document.shards if s.kind == "patch"}
    if complete <= set(claims.indices):
        for entry in document.slices:
            if patches[entry.slug] != entry.n_patches:
                what = f"slice '{entry.slug}': {patches[entry.slug]} patches, it says "
                yield bad(where, f"{what}{entry.n_patches}")


def _check_splits(corpus: Corpus, known: set[str]) -> Iterator[Problem]:
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
        for slug, barcodes in split.barcodes.items():
            if spots.get(slug) != len(barcodes) or len(set(barcodes)) < len(barcodes):
                yield bad(where, f"slice '{slug}': its barcodes are not one for each spot")


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
    told = {(section.slug, section.split, section.donor) for section in report.sections}
    if not {(entry.slug, entry.split, entry.donor) for entry in document.slices} <= told:
        yield bad(where, "its sections are not the slices of corpus.json")
    if refused := [finding.name for finding in report.findings if finding.refused]:
        yield bad(where, f"{len(refused)} leaks that nobody allowed (first: {refused[0]})")


def _needs_certificate(document: CorpusDocument) -> bool:
    splits = {entry.split for entry in document.slices}
    return len(splits) > 1 or names.BLOCKS in splits
