"""Tiny synthetic finished corpora on disk, written with the contract alone.

No builder, no grid, no Zarr: what reads a corpus can be tested without what builds one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.digests import chain_digest, lines_digest, sha256_bytes, sha256_json
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    Kind,
    PatchMeta,
    ShardConfig,
    ShardEntry,
    SliceEntry,
    SourceFile,
    VocabularyEntry,
    WholeMeta,
    compute_corpus_id,
)
from stbuild.corpus.durable import write_durable
from stbuild.corpus.index import SampleIndex, write_genes, write_index, write_slices
from stbuild.corpus.lock import LockDocument, LockedGrid, LockedShard, Origin
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import Codec, Patch, WholeSlice, encode_patch, encode_whole
from stbuild.corpus.split_documents import SplitAssignment, SplitDocument
from stbuild.corpus.tar import END, pack_sample

LABELS = ("inner", "outer", "rim")


@dataclass(frozen=True, kw_only=True)
class ToySlice:
    """A dense synthetic slice. Letters: H, W grid rows and columns, K vocabulary genes."""

    slug: str
    split: str
    counts: NDArray[Any]
    """(H, W, K) uint16 or uint32; 0 at unobserved cells and at genes that are not measured."""
    totals: NDArray[np.uint32]
    """(H, W), 0 = unobserved."""
    labels: NDArray[np.int16]
    """(H, W), -1 = none."""
    measured: NDArray[np.int32]
    """Vocabulary indices that the slice measures, ascending."""

    @property
    def spots(self) -> NDArray[np.int32]:
        """(H, W) number of the spot of each cell in grid order, -1 = none."""
        observed = self.totals > 0
        number = np.cumsum(observed.ravel(), dtype=np.int32).reshape(observed.shape) - 1
        return np.where(observed, number, -1).astype(np.int32)

    @property
    def barcodes(self) -> list[str]:
        """Barcodes in grid order."""
        return [f"{self.slug}-{r:02d}x{c:02d}-1" for r, c in np.argwhere(self.totals > 0)]


def make_slice(
    rng: np.random.Generator,
    number: int,
    *,
    split: str = "train",
    rows: int = 20,
    cols: int = 18,
    n_genes: int = 24,
    n_labels: int = 3,
    wide: bool = False,
) -> ToySlice:
    """Draw a slice whose genes vary over the tissue in bands; every 7th gene is not measured."""
    row, col = np.mgrid[:rows, :cols]
    labels = ((col * n_labels) // cols).astype(np.int16) if n_labels else np.full((rows, cols), -1)
    band = np.sin(row[..., None] / 4 + labels[..., None] + np.arange(n_genes))
    counts = rng.poisson(3 * np.exp(band)).astype(np.uint16)
    measured = np.flatnonzero((np.arange(n_genes) + number) % 7 != 6).astype(np.int32)
    absent = np.setdiff1d(np.arange(n_genes), measured)
    counts[..., absent] = 0
    counts[..., measured[0]] += 1  # no observed cell is empty by accident
    if wide:
        counts = counts.astype(np.uint32)
        counts[..., measured[0]] += 70_000
    observed = rng.random((rows, cols)) > 0.1
    counts[~observed] = 0
    totals = (counts.sum(axis=2, dtype=np.int64) + 5 * observed).astype(np.uint32)
    labels = np.where(observed & (rng.random((rows, cols)) > 0.05), labels, -1).astype(np.int16)
    return ToySlice(
        slug=f"toy{number}", split=split, counts=counts, totals=totals, labels=labels,
        measured=measured,
    )  # fmt: skip


def write_corpus(
    root: Path,
    *,
    kind: Literal["train", "cover"] = "train",
    n_slices: int = 2,
    window: int = 8,
    genes: int = 16,
    seed: int = 0,
    n_genes: int = 24,
    n_patches: int = 12,
    draws: int = 2,
    samples_per_shard: int = 10,
    splits: Sequence[str] | None = None,
    codec: Codec = "zstd",
    n_labels: int = 3,
    rows: int = 20,
    cols: int = 18,
    wide: bool = False,
    name: str = "toy",
) -> Corpus:
    """Write a finished corpus and open it.

    Parameters
    ----------
    root
        New folder of the corpus.
    kind
        ``train``: `n_patches` random windows a slice, whole slices too. ``cover``: windows at
        half a window's stride under `draws` gene draws, spots, labels, whole slices, and the
        evaluation splits ``paper20@1`` and ``block20@1`` with three seeds.
    n_slices
        Slices; slice i gets split ``splits[i % len(splits)]``.
    window, genes
        Patch side P and genes M of a patch; more than the measured ones are padded.
    seed
        Seed of everything; two seeds give two corpora over one vocabulary.
    n_genes
        Genes of the vocabulary, ``GENE0000`` and so on.
    n_labels
        Label names used; 0 leaves the slices unlabelled and without evaluation splits.
    rows, cols
        Grid sides H and W.
    wide
        Let the first slice hold counts beyond 16 bits, so that its patches are uint32.
    """
    rng = np.random.default_rng([seed, n_slices, n_genes])
    chosen = tuple(splits or (("train",) if kind == "train" else ("test",)))
    toys = [
        make_slice(rng, i, split=chosen[i % len(chosen)], rows=rows, cols=cols, n_genes=n_genes,
                   n_labels=n_labels, wide=wide and i == 0)
        for i in range(n_slices)
    ]  # fmt: skip
    cover = {"n_per_slice": None, "cover": max(1, window // 2), "draws": draws}
    config = ShardConfig(
        name=name, window=window, genes=genes, seed=seed, codec=codec,
        samples_per_shard=samples_per_shard,
        **(cover if kind == "cover" else {"n_per_slice": n_patches, "whole_slices": True}),
    )  # fmt: skip
    samples: dict[tuple[str, Kind], list[Sample]] = {}
    for toy in toys:
        patches = _cover(rng, toy, config) if kind == "cover" else _train(rng, toy, config)
        samples.setdefault((toy.split, "patch"), []).extend(map(Sample.of_patch, patches))
        samples.setdefault((toy.split, "slice"), []).append(Sample.of_whole(_whole(toy)))
    for group in samples.values():
        order = rng.permutation(len(group))
        group[:] = [group[i] for i in order]
    documents = _splits(rng, toys) if kind == "cover" and n_labels else []
    return _publish(root, config, toys, samples, documents, n_genes)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample on its way into a shard."""

    key: str
    sample: Patch | WholeSlice
    content: bytes

    @classmethod
    def of_patch(cls, patch: Patch) -> "Sample":
        return cls(key=patch.meta.key, sample=patch, content=patch.content())

    @classmethod
    def of_whole(cls, whole: WholeSlice) -> "Sample":
        return cls(key=whole.meta.key, sample=whole, content=whole.content())

    @property
    def observed(self) -> int:
        """Observed sites of a patch, spots of a whole slice."""
        meta = self.sample.meta
        return meta.observed if isinstance(meta, PatchMeta) else meta.n_spots

    def blocks(self, codec: Codec) -> bytes:
        """Return the tar blocks."""
        if isinstance(self.sample, Patch):
            return pack_sample(self.key, encode_patch(self.sample, codec))
        return pack_sample(self.key, encode_whole(self.sample))


def crop_patch(
    toy: ToySlice, config: ShardConfig, row: int, col: int, drawn: NDArray[np.int32], **where: Any
) -> Patch:
    """Cut one patch; past the grid's edge there is nothing observed."""
    P, M = config.window, config.genes
    inside = np.s_[row : row + P, col : col + P]
    counts = np.zeros((M, P, P), toy.counts.dtype)
    cut = toy.counts[inside][:, :, drawn].transpose(2, 0, 1)
    counts[: drawn.size, : cut.shape[1], : cut.shape[2]] = cut
    padded = np.full(M, -1, np.int32)
    padded[: drawn.size] = drawn
    totals = _pad(toy.totals[inside], P, 0)
    spots = {"spots": _pad(toy.spots[inside], P, -1), "labels": _pad(toy.labels[inside], P, -1)}
    window, draw = where.get("window"), where.get("draw", 0)
    key = names.cover_key(toy.slug, row, col, draw)
    if window is not None:
        key = names.window_key(toy.slug, window)
    meta = PatchMeta(
        key=key, slice=toy.slug, row=row, col=col, window=window, draw=draw, layout="square",
        select=config.select, seed=config.seed, shape=(M, P, P), dtype=toy.counts.dtype.str,
        observed=int(np.count_nonzero(totals)), n_genes=drawn.size,
    )  # fmt: skip
    extra = spots if config.cover is not None else {}
    return Patch(meta=meta, counts=counts, genes=padded, totals=totals, **extra)


def _pad(array: NDArray[Any], P: int, value: int) -> NDArray[Any]:
    out = np.full((P, P), value, array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def _draw(rng: np.random.Generator, toy: ToySlice, config: ShardConfig) -> NDArray[np.int32]:
    m = min(config.genes, toy.measured.size)
    return np.sort(rng.choice(toy.measured, m, replace=False)).astype(np.int32)


def _train(rng: np.random.Generator, toy: ToySlice, config: ShardConfig) -> list[Patch]:
    H, W = (max(1, side - config.window + 1) for side in toy.totals.shape)
    return [
        crop_patch(
            toy, config, int(rng.integers(H)), int(rng.integers(W)), _draw(rng, toy, config),
            window=number,
        )
        for number in range(config.n_per_slice or 0)
    ]  # fmt: skip


def _cover(rng: np.random.Generator, toy: ToySlice, config: ShardConfig) -> list[Patch]:
    def origins(side: int) -> list[int]:
        last = max(0, side - config.window)
        return sorted({*range(0, last + 1, config.cover or 1), last})

    drawn = [_draw(rng, toy, config) for _ in range(config.draws)]
    return [
        crop_patch(toy, config, row, col, genes, draw=draw)
        for row in origins(toy.totals.shape[0])
        for col in origins(toy.totals.shape[1])
        for draw, genes in enumerate(drawn)
    ]


def _whole(toy: ToySlice) -> WholeSlice:
    rows, cols = np.nonzero(toy.totals > 0)
    dense = toy.counts[rows, cols]
    spot, gene = np.nonzero(dense)
    meta = WholeMeta(
        key=names.whole_key(toy.slug), slice=toy.slug, grid=toy.totals.shape, layout="square",
        unit="um", pitch=100.0, pitch_um=100.0, n_spots=rows.size, n_genes=toy.measured.size,
        dtype=toy.counts.dtype.str,
    )  # fmt: skip
    return WholeSlice(
        meta=meta,
        indptr=np.concatenate([[0], np.cumsum(np.bincount(spot, minlength=rows.size))]),
        indices=gene.astype(np.int32),
        data=dense[spot, gene],
        genes=toy.measured,
        totals=toy.totals[rows, cols],
        rows=rows.astype(np.int32),
        cols=cols.astype(np.int32),
        xy=np.stack([cols, rows], axis=1).astype(np.float64) * 100,
        labels=toy.labels[rows, cols],
        barcodes=np.array([b.encode() for b in toy.barcodes]),
    )


def _splits(rng: np.random.Generator, toys: Sequence[ToySlice]) -> list[SplitDocument]:
    def codes(toy: ToySlice, *, blocks: bool) -> str:
        rows, cols = np.nonzero(toy.totals > 0)
        labelled = toy.labels[rows, cols] >= 0
        train = rng.random(rows.size) < 0.2
        if blocks:
            train = (rows // 4) % 5 == int(rng.integers(5))
        text = np.where(labelled, np.where(train, "T", "E"), ".")
        if blocks:
            beside = np.isin(rows, np.unique(rows[train]) + 1) & ~train & labelled
            text[beside] = "b"
        return "".join(text)

    return [
        SplitDocument(
            task=task, task_version=1, rule="synthetic", transductive=True,
            barcodes={toy.slug: tuple(toy.barcodes) for toy in toys},
            assignments=tuple(
                SplitAssignment(
                    seed=seed,
                    slices={toy.slug: codes(toy, blocks=task == "block20") for toy in toys},
                )
                for seed in range(3)
            ),
        )
        for task in ("block20", "paper20")
    ]  # fmt: skip


def _publish(
    root: Path,
    config: ShardConfig,
    toys: Sequence[ToySlice],
    samples: dict[tuple[str, Kind], list[Sample]],
    splits: Sequence[SplitDocument],
    n_genes: int,
) -> Corpus:
    shards: list[ShardEntry] = []
    contents: dict[str, bytes] = {}
    for (split, kind), group in sorted(samples.items()):
        made, index = _write_shards(root, config, split, kind, group)
        shards += made
        contents[names.index_path(split, kind)] = write_index(index)
    genes = [f"GENE{i:04d}" for i in range(n_genes)]
    vocabulary = VocabularyEntry(n_genes=n_genes, sizes=(n_genes,), digest=lines_digest(genes))
    entries = tuple(_slice_entry(toy, samples) for toy in toys)
    contents[names.GENES_PARQUET] = write_genes(genes, [len(toys)] * n_genes)
    contents[names.SLICES_PARQUET] = write_slices(entries)
    contents |= {names.split_path(s.task, s.task_version): s.to_bytes() for s in splits}
    fingerprint = sha256_json(config.model_dump(mode="json"))
    labels = LABELS if any(bool((toy.labels >= 0).any()) for toy in toys) else ()
    lock = LockDocument(
        config=config,
        grids=tuple(
            LockedGrid(
                slug=e.slug,
                name=e.name,
                split=e.split,
                donor=e.donor,
                section=e.section,
                pair=e.pair,
                species=e.species,
                tissue=e.tissue,
                platform=e.platform,
                licence=e.licence,
                origin=Origin(path=e.sources[0].name),
                sources=e.sources,
                config={},
                content=e.grid_content,
            )
            for e in entries
        ),
        vocabulary=vocabulary,
        vocabulary_rules=("union",),
        labels=labels,
        shards=tuple(LockedShard(path=s.path, sha256=s.sha256, content=s.content) for s in shards),
        plan=fingerprint,
        tools={"numpy": "2"},
    )
    contents[names.LOCK_JSON] = lock.to_bytes()
    files = [
        FileEntry(path=path, bytes=size, sha256=digest)
        for path, raw in sorted(contents.items())
        for size, digest in [write_durable(root / path, raw)]
    ]
    frozen = [file for file in files if file.path.startswith("splits/")]
    document = CorpusDocument(
        name=config.name,
        corpus_id=compute_corpus_id(config, vocabulary, labels, shards, frozen),
        fingerprint=fingerprint,
        config=config,
        vocabulary=vocabulary,
        labels=labels,
        slices=entries,
        shards=tuple(shards),
        files=tuple(files),
    )
    raw = document.to_bytes()
    sums = {shard.path: shard.sha256 for shard in shards}
    sums |= {file.path: file.sha256 for file in files}
    sums[names.CORPUS_JSON] = sha256_bytes(raw)
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))
    write_durable(root / names.CHECKSUMS, lines.encode())
    write_durable(root / names.CORPUS_JSON, raw)
    return open_corpus(root)


def _write_shards(
    root: Path, config: ShardConfig, split: str, kind: Kind, group: Sequence[Sample]
) -> tuple[list[ShardEntry], SampleIndex]:
    entries, shard, offset, blocks = [], [], [], [sample.blocks(config.codec) for sample in group]
    for number, start in enumerate(range(0, len(group), config.samples_per_shard)):
        part = np.s_[start : start + config.samples_per_shard]
        path = names.shard_path(config.name, split, kind, number)
        size, digest = write_durable(root / path, [*blocks[part], END])
        sizes = [len(block) for block in blocks[part]]
        shard += [number] * len(sizes)
        offset += (np.cumsum(sizes) - sizes).tolist()
        content = chain_digest((sample.key, sample.content) for sample in group[part])
        entries.append(
            ShardEntry(path=path, split=split, kind=kind, n_samples=len(sizes), bytes=size,
                       sha256=digest, content=content)
        )  # fmt: skip
    metas = [sample.sample.meta for sample in group]

    def integers(name: str) -> NDArray[np.int32]:
        return np.asarray([getattr(meta, name, 0) for meta in metas], np.int32)

    def digests(values: Sequence[bytes]) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(values), np.uint8).reshape(-1, 32)

    index = SampleIndex(
        keys=[sample.key for sample in group],
        shard=np.asarray(shard, np.int32),
        offset=np.asarray(offset, np.int64),
        size=np.asarray([len(block) for block in blocks], np.int64),
        sha256=digests([bytes.fromhex(sha256_bytes(block)) for block in blocks]),
        content=digests([sample.content for sample in group]),
        slices=[meta.slice for meta in metas],
        donors=[f"donor-{meta.slice}" for meta in metas],
        row=integers("row"),
        col=integers("col"),
        draw=integers("draw"),
        observed=np.asarray([sample.observed for sample in group], np.int32),
    )
    return entries, index


def _slice_entry(toy: ToySlice, samples: dict[tuple[str, Kind], list[Sample]]) -> SliceEntry:
    patches = [s for s in samples[toy.split, "patch"] if s.sample.meta.slice == toy.slug]
    return SliceEntry(
        slug=toy.slug, name=toy.slug.upper(), split=toy.split, donor=f"donor-{toy.slug}",
        section=None, platform="synthetic", tissue=None, species=None, licence=None,
        pair=None,
        layout="square", grid=toy.totals.shape, n_spots=int(np.count_nonzero(toy.totals)),
        n_genes=toy.measured.size, n_vocabulary=toy.measured.size,
        n_labelled=int(np.count_nonzero(toy.labels >= 0)), n_patches=len(patches),
        sources=(SourceFile(name=f"{toy.slug}.h5ad", bytes=0, sha256=sha256_bytes(b"")),),
        grid_content=sha256_bytes(toy.counts.tobytes() + toy.totals.tobytes()),
    )  # fmt: skip
