"""Which sample comes at which step on which rank: pure integer arithmetic.

No torch, no file, no clock. An epoch is a permutation of the global sample numbers 0 .. n - 1, a
function of (n, seed, epoch); its consecutive runs of `batch` numbers are the global batches, and a
rank takes every n_ranks-th of each. So the global batches are the same for any number of ranks
and workers, and the whole state of a position is (seed, epoch, step).

Two permutations: over all samples at once (:class:`Order`), for disks that read any sample as fast
as the next; and by blocks (:class:`BlockOrder`), for shards that come over a network.

The last batch of an epoch is smaller where `batch` does not divide n; nothing is dropped and
nothing repeated, so every sample comes exactly once an epoch. All ranks take the same number of
steps; where the last batch holds fewer samples than there are ranks, some ranks get none of it
and take that step with an empty batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 64
"""Steps that are worked out together; it changes no result."""
_ROUNDS: Final = 8
"""Rounds of the Feistel network; four already pass for random, eight cost microseconds."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The place of this process among those that train together."""

    rank: int = 0
    n_ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.n_ranks:
            msg = f"rank {self.rank} is not one of {self.n_ranks} ranks"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """The order of all samples in all epochs.

    Raises
    ------
    ValueError
        No samples, or a batch of none.
    """

    n_samples: int
    batch: int
    """Samples of a global batch."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < 1 or self.batch < 1:
            msg = f"{self.n_samples} samples in batches of {self.batch}: both must be 1 or more"
            raise ValueError(msg)

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return -(-self.n_samples // self.batch)

    def size(self, step: int) -> int:
        """Return the samples of the global batch of a step."""
        return min(self.batch, self.n_samples - step * self.batch)

    def global_batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the sample numbers of a step, (b,) with b = `batch` except in the last step.

        Raises
        ------
        ValueError
            The epoch has no such step.
        """
        if epoch < 0 or not 0 <= step < self.steps:
            msg = f"epoch {epoch} has no step {step}; an epoch has {self.steps} steps"
            raise ValueError(msg)
        chunk, inside = divmod(step, _CHUNK)
        start = inside * self.batch
        return _permute_chunk(self, epoch, chunk)[start : start + self.size(step)]

    def sample_at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample numbers at places 0 .. n - 1 of an epoch, one to one."""
        return permute(places, self.n_samples, self.seed, epoch)

    def rank_batch(self, epoch: int, step: int, world: World) -> NDArray[np.int64]:
        """Return the part of a global batch that one rank takes: its rows rank, rank + n, ..."""
        return self.global_batch(epoch, step)[world.rank :: world.n_ranks]

    def rank_rows(self, epoch: int, step: int, world: World) -> NDArray[np.int64]:
        """Return the rows of the global batch that one rank takes."""
        return np.arange(world.rank, self.size(step), world.n_ranks, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockOrder(Order):
    """An order that needs few shards at a time.

    The shards are permuted, and so are the samples within each group of `group` consecutive shards
    of that permutation; the last group may have fewer. While a group lasts, only its shards are
    read. Samples that are stored in different groups never share a batch, but for the batch that
    lies across the border of two groups.

    Raises
    ------
    ValueError
        No shard, a shard of less than none, shards that do not hold `n_samples`, or groups of none.
    """

    shards: tuple[int, ...]
    """Samples of each shard; samples are numbered in the order of their shards."""
    group: int
    """Shards of a group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 1 or min(self.shards, default=-1) < 0 or sum(self.shards) != self.n_samples:
            msg = (
                f"groups of {self.group} of {len(self.shards)} shards of {sum(self.shards)} samples"
                f" in all; {self.n_samples} samples are to be ordered"
            )
            raise ValueError(msg)

    def sample_at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample numbers at places 0 .. n - 1 of an epoch, one to one."""
        shards, starts, first = _lay_out(self, epoch)
        bounds = starts[[*range(0, len(shards), self.group), len(shards)]]
        groups = np.searchsorted(bounds, places, side="right") - 1
        found = np.empty_like(places)
        for group in np.unique(groups).tolist():
            inside, start = groups == group, bounds[group]
            size = int(bounds[group + 1] - start)
            keys = round_keys(self.seed, epoch, f"group/{group}")
            found[inside] = _permute(places[inside] - start, size, keys) + start
        # Where the samples stand when the shards lie in their new order, back to where they are.
        at = np.searchsorted(starts, found, side="right") - 1
        return first[shards[at]] + (found - starts[at])


def choose_order(
    shards: Sequence[int], *, batch: int, seed: int = 0, group: int | None = None
) -> Order:
    """Return an order of the samples of some shards.

    Parameters
    ----------
    shards
        Samples of each shard.
    batch, seed
        As of :class:`Order`.
    group
        Shards of a group of :class:`BlockOrder`; None is the order of all samples at once.
    """
    n = sum(shards)
    if group is None:
        return Order(n_samples=n, batch=batch, seed=seed)
    return BlockOrder(n_samples=n, batch=batch, seed=seed, shards=tuple(shards), group=group)


@lru_cache(maxsize=2)
def _lay_out(order: BlockOrder, epoch: int) -> tuple[NDArray[np.int64], ...]:
    """Return the shards (S,) in the order of an epoch, and first samples: there, and as stored.

    The first samples there (S + 1,) end with the number of all; those as stored (S,) do not.
    """
    sizes = np.array(order.shards, np.int64)
    keys = round_keys(order.seed, epoch, "shards")
    shards = _permute(np.arange(len(sizes), dtype=np.int64), len(sizes), keys)
    starts = np.concatenate([[0], np.cumsum(sizes[shards])])
    return shards, starts, np.cumsum(sizes) - sizes


@lru_cache(maxsize=4)
def _permute_chunk(order: Order, epoch: int, chunk: int) -> NDArray[np.int64]:
    """Return the sample numbers of some consecutive steps; many at once cost little more than few.

    Parameters
    ----------
    order
        The order.
    epoch
        Epoch.
    chunk
        Number of the run of steps within the epoch.
    """
    first = chunk * _CHUNK * order.batch
    last = min(first + _CHUNK * order.batch, order.n_samples)
    found = order.sample_at(epoch, np.arange(first, last, dtype=np.int64))
    found.setflags(write=False)
    return found


def permute(places: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Map places 0 .. n - 1 of an epoch to sample numbers 0 .. n - 1, one to one.

    Parameters
    ----------
    places
        (b,) places within the epoch.
    n
        Number of samples.
    seed, epoch
        Choose the permutation.
    """
    return _permute(places, n, round_keys(seed, epoch))


def _permute(places: NDArray[np.int64], n: int, keys: list[np.uint64]) -> NDArray[np.int64]:
    """Map places 0 .. n - 1 to numbers 0 .. n - 1, one to one, as the keys have it.

    A Feistel network permutes the next larger power of four; a result of n or more is put through
    it again until it falls below n, which keeps the map one to one.
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    found = np.array(places, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        found[outside] = _feistel(found[outside], half, keys)
        outside = found >= n
    return found.astype(np.int64)


def round_keys(seed: int, epoch: int, purpose: str = "") -> list[np.uint64]:
    """Return the keys of the rounds: 64 bits each of SHA-256 over (purpose, seed, epoch, block)."""
    named = f"/{purpose}" if purpose else ""
    text = f"sttrain/order{named}/v1\0{seed}\0{epoch}\0"
    raw = b"".join(hashlib.sha256(f"{text}{i}".encode()).digest() for i in range(_ROUNDS // 4))
    return list(np.frombuffer(raw, "<u8").astype(np.uint64))


def _feistel(x: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """Permute the numbers below 4^half."""
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = x >> shift, x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter the bits of each number (the finaliser of SplitMix64); products wrap at 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
