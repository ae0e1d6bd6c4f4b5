"""Parts: all samples of one slice, encoded, in one scratch file.

A shard mixes many slices, so slices are read once into parts and shards are gathered from them.
A part is a pure function of grid, vocabulary and configuration; its record is written last.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, Self

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.documents import (
    Count,
    Document,
    Key,
    Kind,
    Sha256,
    ShardConfig,
    Slug,
    SplitName,
    read_document,
)
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.jsonio import dump_canonical, load_strict
from stbuild.corpus.samples import Patch, WholeSlice, encode_patch, encode_whole
from stbuild.corpus.storage import read_file
from stbuild.corpus.tar import pack_sample
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.store import StoredGrid
from stbuild.patches.cropping import whole_sample
from stbuild.patches.cutting import cut_slice
from stbuild.tasks.parcels import Parcel, write_parcel
from stbuild.workspace import holder_of


class Sample(Document):
    """One encoded sample: what plans and indices know of it."""

    key: Key
    kind: Kind
    split: SplitName
    offset: Count
    size: Count
    sha256: Sha256
    content: Sha256
    row: Count = 0
    col: Count = 0
    draw: Count = 0
    observed: Count


class PartSample(Sample):
    """One encoded sample of a part."""

    tries: Count = 1
    n_genes: Count


class PartRecord(Document):
    """What a part holds; its presence means that the part is done."""

    format: Literal["stcorpus/part"] = names.FORMAT_PART
    version: Literal[1] = names.VERSION
    fingerprint: Sha256
    slug: Slug
    bytes: Count
    sha256: Sha256
    samples: tuple[PartSample, ...]


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """One slice to cut into samples."""

    slug: str
    split: str
    """Split of its samples, where windows do not say it."""
    grid: Path
    folder: Path
    """Scratch folder of the parts."""
    vocabulary: Parcel
    """Genes as they were when the slice came, from :func:`write_vocabulary`."""
    labels: tuple[str, ...]
    config: ShardConfig
    fingerprint: str
    """Fingerprint of the whole build: a part of another one is not believed."""

    @property
    def name(self) -> str:
        """Slug of the slice, for messages."""
        return self.slug

    @property
    def mark(self) -> Path:
        """File of the run that a worker must see."""
        return holder_of(self.folder.parent)

    @property
    def data(self) -> Path:
        """File with the encoded samples."""
        return self.folder / f"{self.slug}.bin"

    @property
    def record(self) -> Path:
        """File with the record."""
        return self.folder / f"{self.slug}.json"


def write_vocabulary(work: Path, vocabulary: Vocabulary) -> Parcel:
    """Lay a vocabulary down for the tasks of a run, in its scratch folder."""
    value = {"genes": vocabulary.genes, "earlier": vocabulary.earlier}
    name = f"genes-{len(vocabulary.earlier)}.json"
    return write_parcel(work, name, dump_canonical(value))


@lru_cache(maxsize=2)
def _read_vocabulary(parcel: Parcel) -> Vocabulary:
    value = load_strict(parcel.read(), str(parcel.path))
    return Vocabulary(tuple(value["genes"]), tuple(value["earlier"]))


def cut_part(task: PartTask) -> bool:
    """Cut one slice into samples and store them; return False if that was done already.

    Raises
    ------
    IntegrityError
        The grid is damaged.
    ResourceError
        The disk refuses.
    """
    if task.record.is_file():
        known = read_part(task.record)
        if known.fingerprint == task.fingerprint and _is_whole(task.data, known):
            return False
    grid = StoredGrid(task.grid)
    samples: list[PartSample] = []
    # Scratch is not read back here: every sample's digest is checked when a shard takes it.
    size, digest = write_durable(task.data, _encode(grid, task, samples), read_back=False)
    record = PartRecord(
        fingerprint=task.fingerprint,
        slug=task.slug,
        bytes=size,
        sha256=digest,
        samples=tuple(samples),
    )
    write_durable(task.record, dump_canonical(record.model_dump(mode="json")))
    return True


def read_part(path: Path) -> PartRecord:
    """Read the record of a part."""
    return read_document(PartRecord, read_file(path), str(path))


def _is_whole(data: Path, record: PartRecord) -> bool:
    return (
        data.is_file()
        and data.stat().st_size == record.bytes
        and sha256_file(data) == record.sha256
    )


def _encode(grid: StoredGrid, task: PartTask, samples: list[PartSample]) -> Iterator[bytes]:
    """Yield the tar blocks of every sample and note each in `samples`."""
    config, vocabulary = task.config, _read_vocabulary(task.vocabulary)
    offset = 0
    for window, patch in cut_slice(grid, vocabulary, task.labels, config):
        blocks = pack_sample(patch.meta.key, encode_patch(patch, config.codec))
        meta = patch.meta
        place = {"row": meta.row, "col": meta.col, "draw": meta.draw, "tries": window.tries}
        split = window.split or task.split
        samples.append(_note(patch, "patch", split, blocks, offset, meta.observed, place))
        offset += len(blocks)
        yield blocks
    if config.whole_slices or config.cover is not None:
        whole = whole_sample(grid.whole(), vocabulary, task.labels)
        blocks = pack_sample(whole.meta.key, encode_whole(whole))
        samples.append(_note(whole, "slice", task.split, blocks, offset, whole.meta.n_spots, {}))
        yield blocks


def _note(
    sample: Patch | WholeSlice,
    kind: Kind,
    split: str,
    blocks: bytes,
    offset: int,
    observed: int,
    place: dict[str, int],
) -> PartSample:
    return PartSample(
        key=sample.meta.key,
        kind=kind,
        split=split,
        offset=offset,
        size=len(blocks),
        sha256=sha256_bytes(blocks),
        content=sample.content().hex(),
        observed=observed,
        n_genes=sample.meta.n_genes,
        **place,
    )


class PartReader:
    """Reads samples from parts, keeping their files open; use it in a ``with`` statement.

    Parameters
    ----------
    folder
        Scratch folder of the parts.
    """

    _MOST_OPEN = 256

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self, slug: str, sample: Sample) -> bytes:
        """Return the tar blocks of one sample after checking their digest.

        Raises
        ------
        IntegrityError
            The part changed since it was written.
        """
        if slug not in self._files:
            if len(self._files) >= self._MOST_OPEN:
                self.__exit__()
            self._files[slug] = (self._folder / f"{slug}.bin").open("rb", buffering=0)
        blocks = os.pread(self._files[slug].fileno(), sample.size, sample.offset)
        if sha256_bytes(blocks) != sample.sha256:
            raise IntegrityError(
                Problem(
                    code="P06",
                    subject=f"sample '{sample.key}'",
                    where=str(self._folder / f"{slug}.bin"),
                    what="scratch bytes differ from what was written",
                    fix="check the disk, delete the .work folder beside it and run again",
                )
            )
        return blocks
