"""Open a finished corpus: its document, tables and splits, checked before they are believed.

Shard bytes are read by whoever streams them (``sttrain.stream.batches``) or checks them
(``stbuild.verify``); only single samples and whole slices are read here.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.digests import lines_digest, sha256_bytes
from stbuild.corpus.documents import (
    CorpusDocument,
    FileEntry,
    Kind,
    ShardEntry,
    is_split,
    read_document,
)
from stbuild.corpus.errors import BadInputError, IntegrityError, Problem
from stbuild.corpus.index import SampleIndex, read_genes, read_index
from stbuild.corpus.samples import WholeSlice, decode_whole
from stbuild.corpus.split_documents import SplitDocument
from stbuild.corpus.storage import reading
from stbuild.corpus.tar import unpack_sample
from stbuild.corpus.urls import show_url

MAX_TABLE_BYTES: Final = 2**31
"""Largest table that is read: an index of 10^7 samples and more."""
_MAX_SAMPLE_BYTES: Final = {"patch": 2 * names.MAX_PATCH_BYTES, "slice": 2**33}
"""Most tar blocks of one sample: a patch decodes to less; a USTAR member ends at 8 GiB."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_ROWS: Final = 2**18
"""Rows of an index that are looked at together."""


@dataclass(frozen=True)
class Corpus:
    """A finished corpus on a local disk."""

    root: Path
    document: CorpusDocument

    def index(self, split: str, kind: Kind = "patch") -> SampleIndex:
        """Read the index of one split.

        Raises
        ------
        BadInputError
            The corpus has no such split.
        IntegrityError
            The index is not the one that ``corpus.json`` names, or points outside its shards.
        """
        path = names.index_path(split, kind)
        shards = self.document.shards_of(split, kind)
        n_samples = sum(shard.n_samples for shard in shards)
        index = read_index(self.file(path), str(self.root / path), n_samples)
        check_rows(index, shards, kind, self.root / path)
        return index

    @cached_property
    def genes(self) -> list[str]:
        """The gene vocabulary, sorted within each generation; a gene index is a position in it."""
        told, where = self.document.vocabulary, str(self.root / names.GENES_PARQUET)
        genes = read_genes(self.file(names.GENES_PARQUET), where, told.n_genes)
        parts = [genes[a:b] for a, b in pairwise((0, *told.sizes))]
        ordered = all(one < two for part in parts for one, two in pairwise(part))
        if lines_digest(genes) != told.digest or len(genes) != told.n_genes or not ordered:
            raise _damaged(self.root / names.GENES_PARQUET, "not the vocabulary of corpus.json")
        return genes

    def evaluation_splits(self) -> tuple[str, ...]:
        """Return the names ``task@version`` of the evaluation splits that the corpus holds."""
        stems = (Path(f.path) for f in self.document.files if is_split(f.path))
        return tuple(sorted(path.name.removesuffix(".json") for path in stems))

    def evaluation_split(self, name: str) -> SplitDocument:
        """Read an evaluation split by its name ``task@version``.

        Raises
        ------
        BadInputError
            The corpus has no such split.
        """
        path = f"splits/{name}.json"
        return read_document(SplitDocument, self.file(path), str(self.root / path))

    def shard_file(self, shard: ShardEntry) -> Path:
        """Return the path of a shard after checking that it exists and has its size.

        Raises
        ------
        IntegrityError
            Missing, not a regular file, or of another size.
        """
        path = self.root / shard.path
        if path.is_symlink() or not path.is_file():
            raise _damaged(path, "missing, or not a regular file")
        if path.stat().st_size != shard.bytes:
            found = path.stat().st_size
            raise _damaged(path, f"{found:,} bytes, corpus.json says {shard.bytes:,}")
        return path

    def whole_slices(self, split: str) -> Iterator[WholeSlice]:
        """Yield the whole-slice samples of a split, each checked against its digest.

        Raises
        ------
        BadInputError
            The corpus was written without whole slices.
        IntegrityError
            A sample is damaged.
        """
        index = self.index(split, "slice")
        shards = self.document.shards_of(split, "slice")
        for i in range(len(index)):
            shard = shards[int(index.shard[i])]
            where = f"{shard.path}:{index.keys[i]}"
            yield decode_whole(unpack_sample(self.read_sample(shard, index, i), where)[1], where)

    def read_sample(self, shard: ShardEntry, index: SampleIndex, i: int) -> bytes:
        """Read the tar blocks of one sample and check their digest.

        Parameters
        ----------
        shard
            The shard that holds it.
        index
            Index of the sample's split and kind.
        i
            Position in `index`.

        Raises
        ------
        IntegrityError
            The shard is missing or of another size, or the sample is damaged.
        """
        with self.shard_file(shard).open("rb") as file:
            file.seek(int(index.offset[i]))
            raw = file.read(int(index.size[i]))
        if sha256_bytes(raw) != index.sha256[i].tobytes().hex():
            raise _damaged(self.root / shard.path, f"sample {index.keys[i]} fails its digest")
        return raw

    def file(self, path: str) -> bytes:
        """Read one of the corpus's documents or tables and check its size and digest.

        Raises
        ------
        BadInputError
            The corpus has no such file.
        IntegrityError
            The bytes are not those that ``corpus.json`` names.
        """
        return _read_checked(self.root, self.entry(path))

    def open_file(self, path: str) -> IO[bytes]:
        """Open one of the corpus's files after checking its size and digest, a block at a time.

        For files that are too large to hold; otherwise as :meth:`file`.
        """
        entry = self.entry(path)
        _check_size(self.root, entry)
        file = (self.root / path).open("rb")
        try:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise _damaged(self.root / path, "its SHA-256 is not the one in corpus.json")
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def entry(self, path: str) -> FileEntry:
        """Return what ``corpus.json`` says of a document or table.

        Raises
        ------
        BadInputError
            The corpus has no such file.
        """
        entry = next((f for f in self.document.files if f.path == path), None)
        if entry is None:
            known = ", ".join(f.path for f in self.document.files)
            problem = Problem(
                code="L24",
                subject=f"corpus '{self.document.name}'",
                where=str(self.root),
                what=f"it has no {path}; it has {known}",
                fix="name one of those, or build the corpus with what is missing",
            )
            raise BadInputError(problem)
        return entry


def check_rows(
    index: SampleIndex, shards: Sequence[ShardEntry], kind: Kind, path: Path
) -> NDArray[np.int64]:
    """Refuse an index that contradicts the shards of its corpus, some rows at a time.

    Parameters
    ----------
    index
        Index of one split and kind.
    shards
        The shards of that split and kind.
    kind
        ``patch`` or ``slice``: bounds the size of a sample.
    path
        The index, for messages.

    Returns
    -------
    numpy.ndarray
        (number of shards + 1,) where the samples of each shard begin.

    Raises
    ------
    IntegrityError
        Samples outside their shards, too large, not in the order of their shards, or more or fewer
        than a shard has.
    """
    sizes = np.array([shard.bytes for shard in shards], np.int64)
    for start in range(0, len(index), _ROWS):
        rows = np.s_[start : start + _ROWS]
        shard, size, offset = index.shard[rows], index.size[rows], index.offset[rows]
        before = index.shard[max(start - 1, 0) : start + _ROWS]
        if int(shard.min()) < 0 or int(shard.max()) >= len(shards):
            raise _damaged(path, "number of shards differs from corpus.json")
        if bool(np.any(before[1:] < before[:-1])):
            raise _damaged(path, "its samples are not in the order of their shards")
        bounds = sizes[shard]
        outside = (size > bounds) | (offset > bounds - size) | (offset < 0) | (size < 0)
        if bool(outside.any()):
            first = shards[int(shard[int(outside.argmax())])]
            raise _damaged(path, f"a sample ends outside {first.path}")
        if int(size.max()) > _MAX_SAMPLE_BYTES[kind]:
            what = f"a sample of {int(size.max()):,} bytes is beyond the format's limit"
            raise _damaged(path, what)
    starts = np.searchsorted(index.shard, np.arange(len(shards) + 1)).astype(np.int64)
    for entry, found in zip(shards, np.diff(starts).tolist(), strict=True):
        if entry.n_samples != found:
            what = f"{found:,} samples of {entry.path}, corpus.json says {entry.n_samples:,}"
            raise _damaged(path, what)
    return starts


def open_corpus(root: Path) -> Corpus:
    """Open a corpus by its ``corpus.json``; no directory is ever listed.

    Raises
    ------
    BadInputError
        No finished corpus stands there.
    IntegrityError
        ``corpus.json`` is damaged, or of an unknown format or version.
    """
    path = root / names.CORPUS_JSON
    if path.is_symlink():
        raise _damaged(path, "a link, not a regular file")
    if not path.is_file():
        if _URL.match(str(root)):
            raise _no_folder(root)
        unfinished = (root / names.WORK_DIR).is_dir()
        problem = Problem(
            code="L23",
            subject=f"corpus '{root.name}'",
            where=str(path),
            what="the build is unfinished" if unfinished else "no finished corpus stands here",
            fix="run the same `stbuild shard` command again; it resumes"
            if unfinished
            else "give the folder that `stbuild shard -o` wrote",
        )
        raise BadInputError(problem)
    raw = read_bounded(path, names.MAX_DOCUMENT_BYTES)
    return Corpus(root, read_document(CorpusDocument, raw, str(path)))


def _no_folder(root: Path) -> BadInputError:
    fix = "get the corpus to this machine first; `sttrain fit` alone reads it where it is"
    what = "this is a URL, and the command reads folders of this machine"
    return BadInputError(
        Problem(code="L23", subject="corpus", where=show_url(str(root)), what=what, fix=fix)
    )


def read_bounded(path: Path, most: int) -> bytes:
    """Read a file whose size is checked first.

    Raises
    ------
    IntegrityError
        It is larger than `most`.
    ResourceError
        The storage fails.
    """
    with reading(path), path.open("rb") as file:
        raw = file.read(min(path.stat().st_size, most) + 1)
    if len(raw) > most:
        raise _damaged(path, f"more than the {most:,} bytes that are read of such a file")
    return raw


def _check_size(root: Path, entry: FileEntry) -> None:
    path = root / entry.path
    if path.is_symlink() or not path.is_file():
        raise _damaged(path, "missing, or not a regular file")
    if path.stat().st_size != entry.bytes:
        raise _damaged(path, f"{path.stat().st_size:,} bytes, corpus.json says {entry.bytes:,}")


def _read_checked(root: Path, entry: FileEntry) -> bytes:
    _check_size(root, entry)
    path = root / entry.path
    is_json = path.suffix == ".json"
    raw = read_bounded(path, names.MAX_DOCUMENT_BYTES if is_json else MAX_TABLE_BYTES)
    if sha256_bytes(raw) != entry.sha256:
        raise _damaged(path, "its SHA-256 is not the one in corpus.json")
    return raw


def _damaged(path: Path, what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get the file again"
    return IntegrityError(
        Problem(code="L01", subject=f"file '{path.name}'", where=str(path), what=what, fix=fix)
    )
