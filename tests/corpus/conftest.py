"""Small patches, whole slices and a finished corpus on disk, made without the builder."""

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stbuild.corpus import names
from stbuild.corpus.digests import chain_digest, lines_digest, sha256_bytes
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    PatchMeta,
    ShardConfig,
    ShardEntry,
    SliceEntry,
    SourceFile,
    VocabularyEntry,
    WholeMeta,
    compute_corpus_id,
)
from stbuild.corpus.index import SampleIndex, write_genes, write_index, write_slices
from stbuild.corpus.samples import Patch, WholeSlice, encode_patch, encode_whole
from stbuild.corpus.split_documents import SplitAssignment, SplitDocument
from stbuild.corpus.tar import END, pack_sample

GENES = [f"ENSG{i:03d}" for i in range(40)]


def a_patch(
    seed: int = 0, m: int = 6, side: int = 4, padding: int = 0, dtype: str = "<u2", window: int = 0
) -> Patch:
    """Return a patch with random counts, its last `padding` channels unused."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, (m, side, side)).astype(dtype)
    totals = counts.sum(0, dtype=np.uint32) + 1
    totals[0, 0] = 0
    counts[:, 0, 0] = 0
    genes = np.sort(rng.choice(len(GENES), m, replace=False)).astype("<i4")
    if padding:
        genes[m - padding :] = -1
        counts[m - padding :] = 0
    meta = PatchMeta(
        key=names.window_key("s1", window),
        slice="s1",
        row=0,
        col=0,
        window=window,
        draw=0,
        layout="square",
        select="weighted",
        seed=0,
        shape=(m, side, side),
        dtype="<u4" if dtype == "<u4" else "<u2",
        observed=side * side - 1,
        n_genes=m - padding,
    )
    return Patch(meta=meta, counts=counts, genes=genes, totals=totals)


def with_spots(patch: Patch) -> Patch:
    """Add what an evaluation corpus has."""
    side = patch.totals.shape[0]
    spots = np.arange(side * side, dtype="<i4").reshape(side, side) - 1
    return replace(patch, spots=spots, labels=(spots % 3 - 1).astype("<i2"))


def a_whole(seed: int = 0, n: int = 5) -> WholeSlice:
    """Return a whole slice of `n` spots over the first 9 genes."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 3, (n, 9))
    rows, cols = np.nonzero(dense)
    meta = WholeMeta(
        key=names.whole_key("s1"),
        slice="s1",
        grid=(n, 2),
        layout="square",
        unit="um",
        pitch=100.0,
        pitch_um=100.0,
        n_spots=n,
        n_genes=9,
        dtype="<u2",
    )
    return WholeSlice(
        meta=meta,
        indptr=np.searchsorted(rows, np.arange(n + 1)).astype("<i8"),
        indices=cols.astype("<i4"),
        data=dense[rows, cols].astype("<u2"),
        genes=np.arange(9, dtype="<i4"),
        totals=(dense.sum(1) + 1).astype("<u4"),
        rows=np.arange(n, dtype="<i4"),
        cols=np.zeros(n, "<i4"),
        xy=rng.random((n, 2)),
        labels=np.full(n, -1, "<i2"),
        barcodes=np.array([f"b{i}".encode() for i in range(n)]),
    )


def an_index(packed: list[bytes], patches: list[Patch] | list[WholeSlice]) -> SampleIndex:
    """Return the index of samples that stand behind each other in one shard."""
    sizes = np.array([len(p) for p in packed], np.int64)
    n = len(packed)
    zeros = np.zeros(n, np.int32)
    return SampleIndex(
        keys=[p.meta.key for p in patches],
        shard=zeros,
        offset=np.cumsum(sizes) - sizes,
        size=sizes,
        sha256=_digests([bytes.fromhex(sha256_bytes(p)) for p in packed]),
        content=_digests([p.content() for p in patches]),
        slices=["s1"] * n,
        donors=["d1"] * n,
        row=zeros,
        col=zeros,
        draw=zeros,
        observed=zeros,
    )


def _digests(rows: list[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def write_corpus(root: Path, files: Mapping[str, bytes] | None = None) -> CorpusDocument:
    """Write a corpus of three patches and one whole slice; `files` replaces the bytes of some."""
    patches = [with_spots(a_patch(seed=i, window=i)) for i in range(3)]
    whole = a_whole()
    entries: list[ShardEntry] = []
    tables: dict[str, bytes] = {}
    for kind, samples in (("patch", patches), ("slice", [whole])):
        packed = [
            pack_sample(
                s.meta.key, encode_patch(s, "zstd") if isinstance(s, Patch) else encode_whole(s)
            )
            for s in samples
        ]
        raw = b"".join(packed) + END
        path = names.shard_path("tiny", "train", kind, 0)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(raw)
        content = chain_digest((s.meta.key, s.content()) for s in samples)
        tables[names.index_path("train", kind)] = write_index(an_index(packed, samples))
        entries.append(
            ShardEntry(
                path=path,
                split="train",
                kind="patch" if kind == "patch" else "slice",
                n_samples=len(samples),
                bytes=len(raw),
                sha256=sha256_bytes(raw),
                content=content,
            )
        )
    source = SourceFile(name="s1.h5ad", bytes=1, sha256="0" * 64)
    st_slice = SliceEntry(
        slug="s1",
        name="S1",
        split="train",
        donor="d1",
        section=None,
        pair=None,
        platform=None,
        tissue=None,
        species=None,
        licence=None,
        layout="square",
        grid=(5, 2),
        n_spots=5,
        n_genes=40,
        n_vocabulary=40,
        n_labelled=0,
        n_patches=3,
        sources=(source,),
        grid_content="0" * 64,
    )
    split = SplitDocument(
        task="paper20",
        task_version=1,
        rule="every fifth spot is tested",
        transductive=True,
        barcodes={"s1": tuple(f"b{i}" for i in range(5))},
        assignments=(SplitAssignment(seed=0, slices={"s1": "TTTTE"}),),
    )
    tables |= {
        names.GENES_PARQUET: write_genes(GENES, [1] * len(GENES)),
        names.SLICES_PARQUET: write_slices([st_slice]),
        names.split_path("paper20", 1): split.to_bytes(),
    }
    tables |= dict(files or {})
    listed = [
        FileEntry(path=path, bytes=len(raw), sha256=sha256_bytes(raw))
        for path, raw in sorted(tables.items())
    ]
    config = ShardConfig.model_validate({"name": "tiny", "window": 4, "genes": 6})
    vocabulary = VocabularyEntry(
        n_genes=len(GENES), sizes=(len(GENES),), digest=lines_digest(GENES)
    )
    document = CorpusDocument(
        name="tiny",
        corpus_id=compute_corpus_id(config, vocabulary, ["x", "y"], entries, []),
        fingerprint="0" * 64,
        config=config,
        vocabulary=vocabulary,
        labels=("x", "y"),
        slices=(st_slice,),
        shards=tuple(entries),
        files=tuple(listed),
    )
    for path, raw in tables.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(raw)
    (root / names.CORPUS_JSON).write_bytes(document.to_bytes())
    return document


def a_tar(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    """Return one member as ``tarfile`` writes it, with any header fields."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    form = fields.pop("form", tarfile.USTAR_FORMAT)
    for field, value in fields.items():
        setattr(info, field, value)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="session")
def make_patch() -> Callable[..., Patch]:
    return a_patch


@pytest.fixture(scope="session")
def make_eval_patch() -> Callable[..., Patch]:
    return lambda **kw: with_spots(a_patch(**kw))


@pytest.fixture(scope="session")
def make_whole() -> Callable[..., WholeSlice]:
    return a_whole


@pytest.fixture(scope="session")
def make_index() -> Callable[..., SampleIndex]:
    return an_index


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., CorpusDocument]:
    return write_corpus


@pytest.fixture(scope="session")
def make_tar() -> Callable[..., bytes]:
    return a_tar
