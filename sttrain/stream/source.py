"""The patches of a split, by number: read, checked, and decoded straight into a batch.

The bytes of a sample are read by (shard, offset, size) and compared with the index's SHA-256
before anything of them is believed; then its members are decoded into the batch. What leaves here
are integers: they are half the size of floats, and the training device normalises. No tar is ever
scanned, no JSON is parsed and no torch is imported.

Letters: B patches of a batch, M genes of a patch, P patch side.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.cache import default_cache
from stbuild.corpus.documents import ShardEntry
from stbuild.corpus.index_cache import open_index
from stbuild.corpus.npy import write_npy
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import decode_counts
from stbuild.corpus.tar import BLOCK
from stbuild.corpus.texts import PackedTexts
from sttrain.errors import BadInputError, IntegrityError, Problem
from sttrain.stream.buffers import Buffers
from sttrain.stream.order import Order, choose_order
from sttrain.stream.remote import RemoteCorpus
from sttrain.stream.shards import LocalShards, Places, Shards

OnBad = Literal["refuse", "skip"]

_MEMBERS: Final = frozenset({
    b"counts.blosc", b"counts.npy", b"genes.npy", b"totals.npy", b"json", b"spots.npy",
    b"labels.npy",
})  # fmt: skip
_BLOSC_HEADER: Final = 16
_NPY_HEADER: Final = 128
"""Bytes before the data of a ``.npy`` of up to three dimensions, as NumPy pads them."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Some patches, as integers."""

    counts: NDArray[Any]
    """(B, M, P, P) uint16, or uint32 where a patch of the batch needs it: raw counts."""
    genes: NDArray[np.int32]
    """(B, M) vocabulary index, -1 = padding."""
    totals: NDArray[np.uint32]
    """(B, P, P) library size over all genes of the source, 0 = not observed."""
    kept: NDArray[np.int64]
    """(B,) position of each patch among those that were asked for."""
    damaged: tuple[IntegrityError, ...] = ()
    """Why the others are not there."""


class PatchSource:
    """The patches of one split of a corpus, by number.

    Parameters
    ----------
    corpus
        A finished corpus.
    split
        Split whose patches are read.
    on_bad
        Whether a damaged or missing patch is an error, or is left out and told.
    group
        Shards of a group, where patches are read in the order of blocks.
    cache
        Folder for the index of a large corpus. Without it the user's own.

    Raises
    ------
    BadInputError
        The split holds no patch; those that do are named.
    IntegrityError
        A shard is missing or has not its size. All of them are looked at before the first read,
        unless damage is to be skipped.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        on_bad: OnBad = "refuse",
        group: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.corpus, self.split, self.on_bad, self.group = corpus, split, on_bad, group
        if split not in corpus.document.splits():
            raise no_patches(corpus, split)
        self.index = open_index(corpus, split, cache or default_cache("train"))
        keys = self.index.keys
        self._keys = keys if isinstance(keys, PackedTexts) else PackedTexts.of(keys)
        self.entries: tuple[ShardEntry, ...] = corpus.document.shards_of(split)
        self.shards = self._open_shards()
        config = corpus.document.config
        self.shape = (config.genes, config.window, config.window)
        self.n_genes = corpus.document.vocabulary.n_genes
        self.buffers = Buffers()
        self._local = threading.local()
        M, P, _ = self.shape
        # What these members look like in every patch of the corpus: no header is parsed.
        self._genes_like = write_npy(np.empty(M, np.int32))
        self._totals_like = write_npy(np.empty((P, P), np.uint32))
        self._narrow = write_npy(np.empty(self.shape, np.uint16))[:_NPY_HEADER]

    def __len__(self) -> int:
        return len(self.index)

    def _open_shards(self) -> Shards:
        if isinstance(self.corpus, RemoteCorpus):
            return self.corpus.shards(self.entries)
        if self.on_bad == "refuse":
            for entry in self.entries:
                self.corpus.shard_file(entry)
        return LocalShards(self.corpus, self.entries)

    def read(self, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Read patches.

        Parameters
        ----------
        numbers
            Positions in the index of the split.

        Returns
        -------
        tuple
            Counts (B, M, P, P) uint16 or uint32, genes (B, M) int32, totals (B, P, P) uint32;
            without the damaged ones where those are skipped.

        Raises
        ------
        IntegrityError
            Bytes that fail their digest, or that are not a patch of this corpus; shard and key
            are named.
        RemoteError
            A shard cannot be read now.
        """
        found = self.gather(numbers)
        return found.counts, found.genes, found.totals

    def gather(self, numbers: Sequence[int]) -> Patches:
        """Read patches, and tell which of them came; otherwise as :meth:`read`."""
        M, P, _ = self.shape
        n = len(numbers)
        genes = self.buffers.take((n, M), np.int32)
        totals = self.buffers.take((n, P, P), np.uint32)
        counts = self.buffers.take((n, *self.shape), np.uint16)
        kept: list[int] = []
        damaged: list[IntegrityError] = []
        for i, number in enumerate(numbers):
            try:
                wide = self._decode(number, counts[len(kept)], genes[len(kept)], totals[len(kept)])
            except IntegrityError as error:
                if self.on_bad == "refuse":
                    raise
                damaged.append(error)
                continue
            if wide is not None:
                counts = counts.astype(np.uint32)
                counts[len(kept)] = wide
            kept.append(i)
        m = len(kept)
        found = Patches(
            counts=counts[:m], genes=genes[:m], totals=totals[:m],
            kept=np.array(kept, np.int64), damaged=tuple(damaged),
        )  # fmt: skip
        return self._without_foreign_genes(numbers, found)

    def _without_foreign_genes(self, numbers: Sequence[int], found: Patches) -> Patches:
        """Treat patches with genes outside the vocabulary as damaged; all are looked at at once."""
        genes = found.genes
        if not genes.size or -1 <= int(genes.min()) <= int(genes.max()) < self.n_genes:
            return found
        bad = ((genes < -1) | (genes >= self.n_genes)).any(axis=1)
        what = "a gene index outside the vocabulary"
        errors = tuple(self._damaged(numbers[i], what) for i in found.kept[bad].tolist())
        if self.on_bad == "refuse":
            raise errors[0]
        return Patches(
            counts=found.counts[~bad], genes=genes[~bad], totals=found.totals[~bad],
            kept=found.kept[~bad], damaged=found.damaged + errors,
        )  # fmt: skip

    def order(self, batch: int, seed: int) -> Order:
        """Return the order in which the patches are read."""
        sizes = [entry.n_samples for entry in self.entries]
        return choose_order(sizes, batch=batch, seed=seed, group=self.group)

    def key(self, number: int) -> str:
        """Return the key of a patch."""
        return self._keys[number]

    def places(self, numbers: NDArray[np.int64]) -> Places:
        """Return where patches lie."""
        index = self.index
        return index.shard[numbers], index.offset[numbers], index.size[numbers]

    def _decode(
        self,
        number: int,
        counts: NDArray[Any],
        genes: NDArray[np.int32],
        totals: NDArray[np.uint32],
    ) -> NDArray[Any] | None:
        """Decode a patch into its rows; return counts that need more bits than theirs has."""
        members = self._members(number)
        genes[:] = np.frombuffer(self._array(number, members, "genes.npy", self._genes_like), "<i4")
        raw = self._array(number, members, "totals.npy", self._totals_like)
        totals.reshape(-1)[:] = np.frombuffer(raw, "<u4")
        suffix, packed, itemsize = self._packed_counts(number, members)
        out = counts if itemsize == counts.itemsize else None
        try:
            found = decode_counts(suffix, packed, self.shape, "", out)
        except IntegrityError as error:
            raise self._damaged(number, error.problems[0].what) from error
        if out is not None:
            return None
        if found.itemsize > counts.itemsize:
            return found
        counts[...] = found
        return None

    def _members(self, number: int) -> dict[bytes, memoryview]:
        """Read the bytes of a sample, check their digest, and cut them into members.

        They stand in memory of this thread until it reads the next sample.
        """
        index = self.index
        shard, offset = int(index.shard[number]), int(index.offset[number])
        size = int(index.size[number])
        digest, out = index.sha256[number].tobytes(), self._scratch(size)
        what = self._fill(shard, offset, out, digest)
        if what is not None and self.shards.forget(shard, offset, size):
            what = self._fill(shard, offset, out, digest)
        if what is not None:
            raise self._damaged(number, what)
        try:
            members = cut_members(out, self._keys.raw(number))
        except ValueError as error:
            raise self._damaged(number, f"not a sample: {error}") from error
        if not _MEMBERS.issuperset(members):
            extra = b", ".join(sorted(set(members) - _MEMBERS))[:200]
            raise self._damaged(number, f"members that the format does not know: {extra!r}")
        return members

    def _fill(self, shard: int, offset: int, out: memoryview, digest: bytes) -> str | None:
        """Fill `out` from a shard; return what is wrong with what came."""
        try:
            n = self.shards.read_into(shard, offset, out)
        except OSError as error:
            return f"unreadable: {error.strerror or error}"
        if n != len(out) or sha256(out).digest() != digest:
            return "its bytes fail their SHA-256"
        return None

    def _scratch(self, size: int) -> memoryview:
        """Return memory of this thread."""
        held: bytearray | None = getattr(self._local, "scratch", None)
        if held is None or len(held) < size:
            held = self._local.scratch = bytearray(size)
        return memoryview(held)[:size]

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
        key = self.key(number)
        return IntegrityError(
            Problem(
                code="L03",
                subject=f"sample '{key}'",
                where=f"{self.shards.where(int(self.index.shard[number]))}:{key}",
                what=what,
                fix="run `stbuild verify` on the corpus and get this shard again",
            )
        )


def cut_members(raw: bytes | memoryview, key: bytes) -> dict[bytes, memoryview]:
    """Cut the tar blocks of a sample whose digest was checked into members by suffix.

    Names, types and sizes are checked; header checksums are not, the digest covers them.

    Raises
    ------
    ValueError
        Anything but regular members ``<key>.<suffix>`` that fill the buffer exactly.
    """
    view, members, position = memoryview(raw), {}, 0
    while position < len(view):
        start = position + BLOCK
        header = bytes(view[position:start])
        name, _, _ = header[:100].partition(b"\0")
        stem, _, suffix = name.partition(b".")
        size = int(header[124:135], 8)
        position = start + size + (-size % BLOCK)
        if stem != key or suffix in members or header[156:157] != b"0":
            msg = f"member {name[:60]!r} does not belong there"
            raise ValueError(msg)
        if size < 0 or position > len(view):
            msg = f"member {name[:60]!r} claims {size:,} bytes, more than there are"
            raise ValueError(msg)
        members[suffix] = view[start : start + size]
    return members


def no_patches(corpus: Corpus, split: str) -> BadInputError:
    """Return the error of a split without patches; those that have some are named."""
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
