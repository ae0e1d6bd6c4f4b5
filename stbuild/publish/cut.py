"""A corpus without some of its licence classes, as documents and tables; shards stay as they are.

Tables, splits, certificate and lock lose the slices that are left out. Vocabulary and labels stay
whole, since samples hold positions in them. No file is written here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stbuild.build.growth import GIVEN
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_json
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    ShardConfig,
    ShardEntry,
    SliceEntry,
    compute_corpus_id,
    is_split,
    read_document,
)
from stbuild.corpus.index import write_slices
from stbuild.corpus.lock import LockDocument, LockedGrid
from stbuild.corpus.reader import Corpus
from stbuild.leakage.documents import LEAKAGE_JSON, LeakageReport
from stbuild.publish.cut_splits import cut_splits
from stbuild.publish.cut_tables import cut_genes, cut_index, cut_leakage, cut_panels


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is published of a corpus."""

    document: CorpusDocument
    """Document of what stays."""
    written: dict[str, bytes]
    """Its files but the shards, by path."""


def cut_corpus(corpus: Corpus, left_out: Sequence[str | None]) -> Cut:
    """Leave licence classes out of a corpus.

    Parameters
    ----------
    corpus
        A verified corpus.
    left_out
        Classes as shards carry them; None is unknown.

    Raises
    ------
    BadInputError
        A corpus without ``panels.parquet``: how many slices measure a gene cannot be told.
    """
    gone = set(left_out)
    old = corpus.document
    slices = tuple(e for e in old.slices if names.licence_class(e.licence) not in gone)
    shards = tuple(shard for shard in old.shards if shard.licence not in gone)
    kept = {entry.slug for entry in slices}
    written = _tables(corpus, slices, shards)
    report = _leakage(corpus, kept)
    if report is not None:
        written[LEAKAGE_JSON] = report.to_bytes()
    config = _config(old.config, report)
    written |= cut_splits(corpus, slices)
    written[names.LOCK_JSON] = _lock(corpus, config, slices, shards).to_bytes()
    files = tuple(
        FileEntry(path=path, bytes=len(raw), sha256=sha256_bytes(raw))
        for path, raw in sorted(written.items())
    )
    splits = [file for file in files if is_split(file.path)]
    document = old.model_copy(
        update={
            "corpus_id": compute_corpus_id(config, old.vocabulary, old.labels, shards, splits),
            "fingerprint": sha256_json([old.fingerprint, [e.grid_content for e in slices]]),
            "config": config,
            "slices": slices,
            "shards": shards,
            "files": files,
        }
    )
    return Cut(document=document, written=written)


def _tables(
    corpus: Corpus, slices: Sequence[SliceEntry], shards: Sequence[ShardEntry]
) -> dict[str, bytes]:
    kept = {shard.path for shard in shards}
    written = {
        names.index_path(split, kind): cut_index(corpus, split, kind, kept)
        for split, kind in sorted({(shard.split, shard.kind) for shard in shards})
    }
    panels, raw = cut_panels(corpus, {entry.slug for entry in slices})
    written[names.PANELS_PARQUET] = raw
    written[names.GENES_PARQUET] = cut_genes(corpus, panels)
    written[names.SLICES_PARQUET] = write_slices(slices)
    return written


def _leakage(corpus: Corpus, kept: set[str]) -> LeakageReport | None:
    if LEAKAGE_JSON not in {file.path for file in corpus.document.files}:
        return None
    where = str(corpus.root / LEAKAGE_JSON)
    return cut_leakage(read_document(LeakageReport, corpus.file(LEAKAGE_JSON), where), kept)


def _config(config: ShardConfig, report: LeakageReport | None) -> ShardConfig:
    """Return the configuration under which a rebuild gives the same: splits are not drawn again."""
    assign = "block" if config.assign == "block" else "sheet"
    found = (
        set() if report is None else {name for f in report.findings for name in (f.name, f.kind)}
    )
    allow = tuple(name for name in config.allow if name in found)
    return config.model_copy(update={"assign": assign, "allow": allow})


def _lock(
    corpus: Corpus,
    config: ShardConfig,
    slices: Sequence[SliceEntry],
    shards: Sequence[ShardEntry],
) -> LockDocument:
    where = str(corpus.root / names.LOCK_JSON)
    lock = read_document(LockDocument, corpus.file(names.LOCK_JSON), where)
    split_of = {entry.slug: entry.split for entry in slices}
    paths = {shard.path for shard in shards}
    return lock.model_copy(
        update={
            "config": config,
            "grids": tuple(
                _locked(grid, split_of[grid.slug], corpus.document.config)
                for grid in lock.grids
                if grid.slug in split_of
            ),
            "vocabulary_rules": (GIVEN,) * len(lock.vocabulary_rules),
            "shards": tuple(shard for shard in lock.shards if shard.path in paths),
            "plan": _plan_digest(corpus, shards),
            "labels": corpus.document.labels,
        }
    )


def _locked(grid: LockedGrid, split: str, config: ShardConfig) -> LockedGrid:
    drawn = config.assign not in ("sheet", "block") and config.cover is None
    return grid.model_copy(update={"split": split}) if drawn else grid


def _plan_digest(corpus: Corpus, shards: Sequence[ShardEntry]) -> str:
    """Return the digest of a plan of these shards: :func:`stbuild.build.shards.plan_digest`."""
    keys: dict[str, list[str]] = {shard.path: [] for shard in shards}
    for split, kind in sorted({(shard.split, shard.kind) for shard in shards}):
        index, known = corpus.index(split, kind), corpus.document.shards_of(split, kind)
        for key, number in zip(index.keys, index.shard.tolist(), strict=True):
            if (path := known[number].path) in keys:
                keys[path].append(key)
    return sha256_json([[path, found] for path, found in keys.items()])
