"""The tables and documents of a corpus, once its shards stand; ``corpus.json`` comes last."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.build.inputs import BuildInputs
from stbuild.build.shards import ShardPlan, plan_digest
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    Kind,
    ShardEntry,
    SliceEntry,
    VocabularyEntry,
    compute_corpus_id,
    is_split,
)
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import IntegrityError, Problem, ResourceError
from stbuild.corpus.index import SampleIndex, write_genes, write_index, write_panels, write_slices
from stbuild.corpus.lock import LockDocument, LockedGrid, LockedShard
from stbuild.grid.grids import GridMeta
from stbuild.grid.store import StoredGrid
from stbuild.leakage import LeakageReport
from stbuild.leakage.documents import LEAKAGE_JSON
from stbuild.splits import evaluation_splits
from stbuild.tools import tool_versions
from stbuild.workspace import holder_of

LOCKED: Final = (
    "slug", "name", "split", "donor", "section", "pair", "species", "tissue", "platform", "licence",
    "origin", "sources", "content",
)  # fmt: skip
"""What a lock says of a grid, under the names that the grid has it."""


def publish_corpus(
    inputs: BuildInputs,
    out: Path,
    plans: Sequence[ShardPlan],
    shards: Sequence[ShardEntry],
    leakage: LeakageReport | None,
) -> CorpusDocument:
    """Write tables, splits and lock, then the checksums, then ``corpus.json``.

    Parameters
    ----------
    inputs
        What decides the corpus.
    out
        Corpus folder, where all shards already stand.
    plans, shards
        Plan and entry of every shard, in the same order.
    leakage
        The certificate, where there are several splits.

    Raises
    ------
    ResourceError
        The disk refuses, or what was written is gone.
    """
    slices, vocabulary = _slice_entries(inputs, plans), _vocabulary(inputs)
    files, held = [], holder_of(out / names.WORK_DIR)
    for path, raw in sorted(make_tables(inputs, plans, shards, leakage).items()):
        size, digest = write_durable(out / path, raw, held=held)
        files.append(FileEntry(path=path, bytes=size, sha256=digest))
    split_files = [file for file in files if is_split(file.path)]
    document = CorpusDocument(
        name=inputs.config.name,
        corpus_id=compute_corpus_id(inputs.config, vocabulary, inputs.labels, shards, split_files),
        fingerprint=inputs.fingerprint,
        config=inputs.config,
        vocabulary=vocabulary,
        labels=inputs.labels,
        slices=slices,
        shards=tuple(shards),
        files=tuple(files),
    )
    require_files(out, document.shards, document.files)
    write_durable(out / names.CHECKSUMS, list_checksums(document), held=held)
    write_durable(out / names.CORPUS_JSON, document.to_bytes(), held=held)
    return document


def require_files(out: Path, *listed: Iterable[ShardEntry | FileEntry]) -> None:
    """Refuse to call finished what another program took away in the meantime.

    Raises
    ------
    ResourceError
        Files that were written and are gone, or have another size; the first few by name.
    """
    if gone := _gone(out, {entry.path: entry.bytes for entry in chain(*listed)}):
        raise ResourceError(
            Problem(
                code="P05",
                subject=f"output '{out.name}'",
                where=str(out / gone[0]),
                what=f"{len(gone):,} files that were written are gone or changed "
                f"({', '.join(gone[:3])}): something else works in the folder",
                fix="leave the folder to one run, and run the same command again",
            )
        )


def require_whole(out: Path, *listed: Iterable[ShardEntry | FileEntry], fix: str) -> None:
    """Refuse to take a finished folder for whole that has lost files; no byte of them is read.

    Raises
    ------
    IntegrityError
        Files are missing or have another size; the first few by name.
    """
    sizes = {entry.path: entry.bytes for entry in chain(*listed)}
    if gone := _gone(out, sizes):
        raise IntegrityError(
            Problem(
                code="L01",
                subject=f"output '{out.name}'",
                where=str(out / gone[0]),
                what=f"it is finished, but {len(gone):,} of its {len(sizes):,} files are missing "
                f"or have another size ({', '.join(gone[:3])})",
                fix=fix,
            )
        )


def _gone(out: Path, sizes: Mapping[str, int]) -> list[str]:
    return [path for path, size in sizes.items() if not _stands(out / path, size)]


def _stands(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def list_checksums(document: CorpusDocument) -> bytes:
    """Return ``SHA256SUMS``: every file of the corpus but itself, in the form of sha256sum."""
    sums = {shard.path: shard.sha256 for shard in document.shards}
    sums |= {file.path: file.sha256 for file in document.files}
    sums[names.CORPUS_JSON] = sha256_bytes(document.to_bytes())
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())).encode()


def make_tables(
    inputs: BuildInputs,
    plans: Sequence[ShardPlan],
    shards: Sequence[ShardEntry],
    leakage: LeakageReport | None,
) -> dict[str, bytes]:
    """Return every file of a corpus but its shards, its checksums and ``corpus.json``, by path.

    Parameters are those of :func:`publish_corpus`.
    """
    slices, vocabulary = _slice_entries(inputs, plans), _vocabulary(inputs)
    lock = LockDocument(
        config=inputs.config,
        grids=tuple(
            LockedGrid(
                **{name: getattr(meta, name) for name in LOCKED},
                generation=inputs.growth.generation(meta.slug),
                config=meta.config.model_dump(mode="json"),
            )
            for meta in inputs.metas
        ),
        vocabulary=vocabulary,
        vocabulary_rules=inputs.growth.rule_names,
        labels=inputs.labels,
        shards=tuple(LockedShard(path=s.path, sha256=s.sha256, content=s.content) for s in shards),
        plan=plan_digest(plans),
        tools=tool_versions(),
    )
    measured = np.zeros(len(inputs.vocabulary.genes), np.int64)
    for panel in inputs.panels.values():
        measured[panel] += 1  # a slice has a gene once
    contents = {
        names.GENES_PARQUET: write_genes(inputs.vocabulary.genes, measured.tolist()),
        names.SLICES_PARQUET: write_slices(slices),
        names.PANELS_PARQUET: write_panels(inputs.panels),
        names.LOCK_JSON: lock.to_bytes(),
    }
    if leakage is not None:
        contents[LEAKAGE_JSON] = leakage.to_bytes()
    contents |= _indices(plans, {entry.slug: entry.donor or "" for entry in slices})
    if inputs.config.cover is not None and inputs.config.label_splits:
        grids = [StoredGrid(inputs.grid_path(m.slug)).spots() for m in inputs.metas if m.n_labelled]
        pairs = {meta.slug: meta.pair for meta in inputs.metas}
        for split in evaluation_splits(grids, inputs.config.window, pairs):
            contents[names.split_path(split.task, split.task_version)] = split.to_bytes()
    return contents


def _vocabulary(inputs: BuildInputs) -> VocabularyEntry:
    found = inputs.vocabulary
    return VocabularyEntry(n_genes=len(found.genes), sizes=found.sizes, digest=found.digest)


def _slice_entries(inputs: BuildInputs, plans: Sequence[ShardPlan]) -> tuple[SliceEntry, ...]:
    patches = Counter(slug for plan in plans if plan.kind == "patch" for slug, _ in plan.samples)
    return tuple(_slice_entry(inputs, meta, patches[meta.slug]) for meta in inputs.metas)


def _slice_entry(inputs: BuildInputs, meta: GridMeta, n_patches: int) -> SliceEntry:
    shared = {
        "slug",
        "name",
        "donor",
        "section",
        "pair",
        "platform",
        "tissue",
        "species",
        "licence",
    }
    shared |= {"layout", "n_spots", "n_genes", "n_labelled", "sources"}
    return SliceEntry(
        **{key: getattr(meta, key) for key in shared},
        split=inputs.split_of[meta.slug],
        generation=inputs.growth.generation(meta.slug),
        grid=meta.shape,
        n_vocabulary=inputs.panels[meta.slug].size,
        n_patches=n_patches,
        grid_content=meta.content,
    )


def _indices(plans: Sequence[ShardPlan], donors: dict[str, str]) -> dict[str, bytes]:
    groups: dict[tuple[str, Kind], list[ShardPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.split, plan.kind), []).append(plan)
    return {
        names.index_path(split, kind): write_index(_index_group(group, donors))
        for (split, kind), group in groups.items()
    }


def _index_group(group: Sequence[ShardPlan], donors: dict[str, str]) -> SampleIndex:
    samples = [sample for plan in group for _, sample in plan.samples]
    slugs = [slug for plan in group for slug, _ in plan.samples]
    sizes = [np.asarray([s.size for _, s in plan.samples], np.int64) for plan in group]

    def integers(name: str) -> NDArray[np.int32]:
        return np.asarray([getattr(sample, name) for sample in samples], np.int32)

    def digests(name: str) -> NDArray[np.uint8]:
        joined = b"".join(bytes.fromhex(getattr(sample, name)) for sample in samples)
        return np.frombuffer(joined, np.uint8).reshape(-1, 32)

    return SampleIndex(
        keys=[sample.key for sample in samples],
        shard=np.repeat(np.arange(len(group), dtype=np.int32), [part.size for part in sizes]),
        offset=np.concatenate([np.cumsum(part) - part for part in sizes]),
        size=np.concatenate(sizes),
        sha256=digests("sha256"),
        content=digests("content"),
        slices=slugs,
        donors=[donors[slug] for slug in slugs],
        row=integers("row"),
        col=integers("col"),
        draw=integers("draw"),
        observed=integers("observed"),
    )
