"""Batches of patches, read from tar shards by index, in the order of :mod:`sttrain.order`.

The bytes of a sample are read by (shard, offset, size) and compared with the index's SHA-256
before anything of them is believed; then its members are decoded straight into the batch. What
leaves here are integers: they are half the size of floats, and the training device normalises.
No tar is ever scanned, no JSON is parsed and no torch is imported.

Letters: B patches of a batch, M genes of a patch, P patch side.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardEntry
from stbuild.corpus.npy import write_npy
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import decode_counts
from stbuild.corpus.tar import BLOCK
from sttrain.errors import BadInputError, IntegrityError, Problem
from sttrain.order import Order, World

_BLOSC_HEADER: Final = 16
_NPY_HEADER: Final = 128
"""Bytes before the data of a ``.npy`` of up to three dimensions, as NumPy pads them."""


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """Where a run stands: all that is needed to go on with the very next sample."""

    epoch: int = 0
    step: int = 0
    """Next step of the epoch."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The part of a global batch that one rank takes."""

    epoch: int
    step: int
    counts: NDArray[Any]
    """(B, M, P, P) uint16, or uint32 where a patch of the batch needs it: raw counts."""
    genes: NDArray[np.int32]
    """(B, M) vocabulary index, -1 = padding."""
    totals: NDArray[np.uint32]
    """(B, P, P) library size over all genes of the source, 0 = not observed."""
    keys: tuple[str, ...]
    rows: NDArray[np.int64]
    """(B,) row of each patch in the global batch."""
    total: int
    """Patches of the global batch."""
    slices: tuple[str, ...] = ()
    """B slugs of the slices that they are from; needed to turn patches and to centre by slice."""
    domains: NDArray[np.int64] | None = None
    """(B, L) macro-domain of every site, where samples are whole slices."""


class PatchSource:
    """The patches of one split of a corpus, by number.

    Parameters
    ----------
    corpus
        A finished corpus.
    split
        Split whose patches are read.

    Raises
    ------
    BadInputError
        The split holds no patch; those that do are named.
    IntegrityError
        A shard is missing or has not its size. All of them are looked at before the first read.
    """

    def __init__(self, corpus: Corpus, split: str) -> None:
        self.corpus, self.split = corpus, split
        if split not in corpus.document.splits():
            raise _no_samples(corpus, split)
        self.index = corpus.index(split)
        self.shards: tuple[ShardEntry, ...] = corpus.document.shards_of(split)
        self.paths = [corpus.shard_file(shard) for shard in self.shards]
        config = corpus.document.config
        self.shape = (config.genes, config.window, config.window)
        self.n_genes = corpus.document.vocabulary.n_genes
        M, P, _ = self.shape
        # What these members look like in every patch of the corpus: no header is parsed.
        self._genes_like = write_npy(np.empty(M, np.int32))
        self._totals_like = write_npy(np.empty((P, P), np.uint32))
        self._narrow = write_npy(np.empty(self.shape, np.uint16))[:_NPY_HEADER]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Read patches into new arrays.

        Parameters
        ----------
        numbers
            Positions in the index of the split.

        Returns
        -------
        tuple
            Counts (B, M, P, P) uint16 or uint32, genes (B, M) int32, totals (B, P, P) uint32.

        Raises
        ------
        IntegrityError
            Bytes that fail their digest, or that are not a patch of this corpus; shard and key
            are named.
        """
        M, P, _ = self.shape
        genes = np.empty((len(numbers), M), np.int32)
        totals = np.empty((len(numbers), P, P), np.uint32)
        packed = []
        for i, number in enumerate(numbers):
            members = self._members(number)
            raw = self._array(number, members, "genes.npy", self._genes_like)
            genes[i] = np.frombuffer(raw, "<i4")
            raw = self._array(number, members, "totals.npy", self._totals_like)
            totals[i] = np.frombuffer(raw, "<u4").reshape(P, P)
            packed.append(self._packed_counts(number, members))
        if genes.size and not -1 <= int(genes.min()) <= int(genes.max()) < self.n_genes:
            bad = int(((genes < -1) | (genes >= self.n_genes)).any(axis=1).argmax())
            raise self._damaged(numbers[bad], "a gene index outside the vocabulary")
        wide = any(itemsize == 4 for _, _, itemsize in packed)
        counts = np.empty((len(numbers), *self.shape), np.uint32 if wide else np.uint16)
        for i, (suffix, raw, itemsize) in enumerate(packed):
            out = counts[i] if itemsize == counts.itemsize else None
            found = decode_counts(suffix, raw, self.shape, self.where(numbers[i]), out)
            if out is None:
                counts[i] = found
        return counts, genes, totals

    def where(self, number: int) -> str:
        """Return shard and key of a patch, for messages."""
        return f"{self.shards[int(self.index.shard[number])].path}:{self.index.keys[number]}"

    def _members(self, number: int) -> dict[bytes, memoryview]:
        """Read the bytes of a sample, check their digest, and cut them into members."""
        path = self.paths[int(self.index.shard[number])]
        offset, size = int(self.index.offset[number]), int(self.index.size[number])
        try:
            # Opened for each read: no limit of open files, no state that threads would share.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                raw = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._damaged(number, f"unreadable: {error.strerror}") from error
        if len(raw) != size or sha256(raw).digest() != self.index.sha256[number].tobytes():
            raise self._damaged(number, "its bytes fail their SHA-256")
        try:
            return cut_members(raw, self.index.keys[number].encode())
        except ValueError as error:
            raise self._damaged(number, f"not a sample: {error}") from error

    def _array(
        self, number: int, members: dict[bytes, memoryview], name: str, like: bytes
    ) -> memoryview:
        """Return the data of a member that must have the header and the length of `like`."""
        raw = members.get(name.encode(), memoryview(b""))
        if len(raw) != len(like) or raw[:_NPY_HEADER] != like[:_NPY_HEADER]:
            raise self._damaged(number, f"{name} is missing, or of another type or shape")
        return raw[_NPY_HEADER:]

    def _packed_counts(
        self, number: int, members: dict[bytes, memoryview]
    ) -> tuple[str, memoryview, int]:
        """Return suffix, bytes and bytes per number of the counts, which are still packed."""
        if (raw := members.get(b"counts.blosc")) is not None and len(raw) >= _BLOSC_HEADER:
            return "counts.blosc", raw, raw[3]
        if (raw := members.get(b"counts.npy")) is not None:
            narrow = raw[:_NPY_HEADER] == self._narrow
            return "counts.npy", raw, 2 if narrow else 4
        raise self._damaged(number, "it has no counts")

    def _damaged(self, number: int, what: str) -> IntegrityError:
        key = self.index.keys[number]
        shard = self.paths[int(self.index.shard[number])]
        return IntegrityError(
            Problem(
                code="L03",
                subject=f"sample '{key}'",
                where=f"{shard}:{key}",
                what=what,
                fix="run `stbuild verify` on the corpus and get this shard again",
            )
        )


class PatchStream:
    """The batches of one rank, from any state on, epoch after epoch.

    Parameters
    ----------
    source
        The patches.
    order
        Which of them come when.
    world
        The rank that reads.
    workers
        Threads that read and decode ahead; 0 reads when a batch is asked for. Neither changes
        what is read or its order. Reading, hashing and decompressing let other threads run.
    """

    def __init__(
        self, source: PatchSource, order: Order, world: World | None = None, workers: int = 0
    ) -> None:
        self.source, self.order, self.workers = source, order, workers
        self.world = world or World()

    def read(self, state: StreamState) -> Batch:
        """Read one batch.

        Raises
        ------
        IntegrityError
            A patch of it is damaged.
        """
        numbers = self.order.rank_batch(state.epoch, state.step, self.world).tolist()
        counts, genes, totals = self.source.read(numbers)
        return Batch(
            epoch=state.epoch,
            step=state.step,
            counts=counts,
            genes=genes,
            totals=totals,
            keys=tuple(self.source.index.keys[number] for number in numbers),
            rows=self.order.rank_rows(state.epoch, state.step, self.world),
            total=self.order.size(state.step),
            slices=tuple(self.source.index.slices[number] for number in numbers),
        )

    def batches(self, start: StreamState, epochs: int) -> Iterator[Batch]:
        """Yield the batches from `start` to the end of the last of `epochs` epochs.

        Raises
        ------
        IntegrityError
            A patch is damaged; everything before its batch was yielded.
        """
        states = self.states(start, epochs)
        if self.workers == 0:
            yield from map(self.read, states)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="sttrain-read")
        try:
            ahead: deque[Future[Batch]] = deque()
            for state in states:
                ahead.append(pool.submit(self.read, state))
                if len(ahead) > self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def states(self, start: StreamState, epochs: int) -> Iterator[StreamState]:
        """Yield every state from `start` to the end of the last of `epochs` epochs."""
        for epoch in range(start.epoch, epochs):
            first = start.step if epoch == start.epoch else 0
            for step in range(first, self.order.steps):
                yield StreamState(epoch=epoch, step=step)


def cut_members(raw: bytes, key: bytes) -> dict[bytes, memoryview]:
    """Cut the tar blocks of a sample whose digest was checked into members by suffix.

    Names, types and sizes are checked; header checksums are not, the digest covers them.

    Raises
    ------
    ValueError
        Anything but regular members ``<key>.<suffix>`` that fill the buffer exactly.
    """
    view, members, position = memoryview(raw), {}, 0
    while position < len(raw):
        name, _, _ = raw[position : position + 100].partition(b"\0")
        stem, _, suffix = name.partition(b".")
        size = int(raw[position + 124 : position + 135], 8)
        start = position + BLOCK
        position = start + size + (-size % BLOCK)
        kind = raw[start - BLOCK + 156 : start - BLOCK + 157]
        if stem != key or suffix in members or kind != b"0":
            msg = f"member {name[:60]!r} does not belong there"
            raise ValueError(msg)
        if size < 0 or position > len(raw):
            msg = f"member {name[:60]!r} claims {size:,} bytes, more than there are"
            raise ValueError(msg)
        members[suffix] = view[start : start + size]
    return members


def _no_samples(corpus: Corpus, split: str) -> BadInputError:
    listed = ", ".join(corpus.document.splits()) or "none"
    return BadInputError(
        Problem(
            code="L24",
            subject=f"corpus '{corpus.document.name}'",
            where=str(corpus.root),
            what=f"split '{split}' holds 0 patches; splits with patches: {listed}",
            fix="name one of those with --split, or build a corpus with --n-per-slice",
        )
    )
