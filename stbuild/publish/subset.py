"""A corpus without some licence classes: the same shards of the others, with tables that fit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_json
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    ShardEntry,
    compute_corpus_id,
    is_split,
    read_document,
)
from stbuild.corpus.index import (
    SampleIndex,
    read_panels,
    write_genes,
    write_index,
    write_panels,
    write_slices,
)
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.reader import Corpus
from stbuild.corpus.split_documents import SplitDocument
from stbuild.earlier import read_earlier
from stbuild.growth import GIVEN
from stbuild.leakage.documents import LEAKAGE_JSON
from stbuild.publish.gate import class_of
from stbuild.shards import plan_digest


@dataclass(frozen=True, kw_only=True)
class Subset:
    """What is published of a corpus."""

    document: CorpusDocument
    tables: dict[str, bytes]
    """Every file of the corpus but its shards, by path."""


def whole_corpus(corpus: Corpus) -> Subset:
    """Return a corpus as it is."""
    tables = {file.path: corpus.file(file.path) for file in corpus.document.files}
    return Subset(document=corpus.document, tables=tables)


def leave_out(corpus: Corpus, classes: Iterable[str]) -> Subset:
    """Return a corpus without the slices and shards of some licence classes.

    Genes, labels and configuration stay, so every shard that stays is as it was. Evaluation splits
    lose the slices that are gone, and folds that have nothing to train or to test on are dropped.
    The certificate of leakage stays that of the whole corpus.

    Raises
    ------
    IntegrityError
        A table of the corpus is damaged.
    """
    gone, old = set(classes), corpus.document
    slices = tuple(entry for entry in old.slices if class_of(entry) not in gone)
    kept = {entry.slug for entry in slices}
    dropped = {names.licence_class(e.licence) for e in old.slices if class_of(e) in gone}
    shards = tuple(shard for shard in old.shards if shard.licence not in dropped)
    tables = _indices(corpus, shards)
    raw = corpus.file(names.PANELS_PARQUET)
    panels = read_panels(raw, str(corpus.root / names.PANELS_PARQUET))
    panels = {slug: panel for slug, panel in panels.items() if slug in kept}
    tables[names.PANELS_PARQUET] = write_panels(panels)
    tables[names.GENES_PARQUET] = write_genes(corpus.genes, _count(panels, len(corpus.genes)))
    tables[names.SLICES_PARQUET] = write_slices(slices)
    tables[names.LOCK_JSON] = _lock(corpus, kept, shards)
    tables |= _splits(corpus, kept)
    if LEAKAGE_JSON in {file.path for file in old.files}:
        tables[LEAKAGE_JSON] = corpus.file(LEAKAGE_JSON)
    files = [
        FileEntry(path=path, bytes=len(raw), sha256=sha256_bytes(raw))
        for path, raw in sorted(tables.items())
    ]
    split_files = [file for file in files if is_split(file.path)]
    document = old.model_copy(
        update={
            "corpus_id": compute_corpus_id(
                old.config, old.vocabulary, old.labels, shards, split_files
            ),
            "fingerprint": sha256_json({"of": old.fingerprint, "without": sorted(gone)}),
            "slices": slices,
            "shards": shards,
            "files": tuple(files),
        }
    )
    return Subset(document=document, tables=tables)


def _count(panels: dict[str, NDArray[np.int32]], n_genes: int) -> list[int]:
    times = Counter(int(gene) for panel in panels.values() for gene in panel)
    return [times[gene] for gene in range(n_genes)]


def _indices(corpus: Corpus, shards: tuple[ShardEntry, ...]) -> dict[str, bytes]:
    kept = {shard.path for shard in shards}
    found = {}
    for split, kind in sorted({(shard.split, shard.kind) for shard in shards}):
        stays = np.asarray([s.path in kept for s in corpus.document.shards_of(split, kind)])
        index = corpus.index(split, kind)
        rows = np.flatnonzero(stays[index.shard])
        number = (np.cumsum(stays) - 1).astype(np.int32)
        found[names.index_path(split, kind)] = write_index(_rows(index, rows, number))
    return found


def _rows(index: SampleIndex, rows: NDArray[np.int64], number: NDArray[np.int32]) -> SampleIndex:
    texts: dict[str, Any] = {
        name: [getattr(index, name)[i] for i in rows] for name in ("keys", "slices", "donors")
    }
    columns = ("offset", "size", "sha256", "content", "row", "col", "draw", "observed")
    arrays: dict[str, Any] = {name: getattr(index, name)[rows] for name in columns}
    return replace(index, shard=number[index.shard[rows]], **texts, **arrays)


def _lock(corpus: Corpus, kept: set[str], shards: tuple[ShardEntry, ...]) -> bytes:
    where = str(corpus.root / names.LOCK_JSON)
    lock = read_document(LockDocument, corpus.file(names.LOCK_JSON), where)
    paths = {shard.path for shard in shards}
    plans = [plan for plan in read_earlier(corpus).plans if plan.path in paths]
    return lock.model_copy(
        update={
            "grids": tuple(grid for grid in lock.grids if grid.slug in kept),
            "shards": tuple(shard for shard in lock.shards if shard.path in paths),
            "vocabulary_rules": (GIVEN,) * len(lock.vocabulary_rules),
            "plan": plan_digest(plans),
        }
    ).to_bytes()


def _splits(corpus: Corpus, kept: set[str]) -> dict[str, bytes]:
    found = {}
    for name in corpus.evaluation_splits():
        split = _thin(corpus.evaluation_split(name), kept)
        if split is not None:
            found[f"splits/{name}.json"] = split.to_bytes()
    return found


def _thin(split: SplitDocument, kept: set[str]) -> SplitDocument | None:
    barcodes = {slug: ids for slug, ids in split.barcodes.items() if slug in kept}
    assignments = []
    for assignment in split.assignments:
        slices = {slug: codes for slug, codes in assignment.slices.items() if slug in kept}
        used = set("".join(slices.values()))
        if {"T", "E"} <= used:
            assignments.append(assignment.model_copy(update={"slices": slices}))
    if not assignments:
        return None
    undefined = {slug: why for slug, why in split.undefined.items() if slug in kept}
    return split.model_copy(
        update={"barcodes": barcodes, "assignments": tuple(assignments), "undefined": undefined}
    )
