"""Batches of patches (:mod:`.source`) in the order of :mod:`.order`, read ahead.

Letters: B patches of a batch, M genes of a patch, P patch side.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttrain.errors import IntegrityError
from sttrain.stream.order import Order, World
from sttrain.stream.shards import Places
from sttrain.stream.source import PatchSource, cut_members
from sttrain.threads import map_ahead

__all__ = ["Batch", "PatchSource", "PatchStream", "StreamState", "cut_members"]


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
    """Patches of the global batch, those included that were skipped."""
    slices: tuple[str, ...] = ()
    """B slugs of the slices that they are from; needed to turn patches and to centre by slice."""
    domains: NDArray[np.int64] | None = None
    """(B, L) macro-domain of every site, where samples are whole slices."""
    damaged: tuple[IntegrityError, ...] = ()
    """Why patches of this rank's part are missing, where damage is skipped."""


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
        numbers = self.order.rank_batch(state.epoch, state.step, self.world)
        found = self.source.gather(numbers.tolist())
        kept = numbers[found.kept].tolist()
        return Batch(
            epoch=state.epoch,
            step=state.step,
            counts=found.counts,
            genes=found.genes,
            totals=found.totals,
            keys=tuple(self.source.key(number) for number in kept),
            rows=self.order.rank_rows(state.epoch, state.step, self.world)[found.kept],
            total=self.order.size(state.step),
            slices=tuple(self.source.index.slices[number] for number in kept),
            damaged=found.damaged,
        )

    def batches(self, start: StreamState, epochs: int) -> Iterator[Batch]:
        """Yield the batches from `start` to the end of the last of `epochs` epochs.

        Raises
        ------
        IntegrityError
            A patch is damaged; everything before its batch was yielded.
        """
        with self.source.shards.reading_ahead(self._coming(start, epochs)) as taken:
            for batch in self._read_all(start, epochs):
                yield batch
                taken()

    def _read_all(self, start: StreamState, epochs: int) -> Iterator[Batch]:
        states = self.states(start, epochs)
        if self.workers == 0:
            yield from map(self.read, states)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="sttrain-read")
        try:
            yield from map_ahead(pool, self.read, states, self.workers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _coming(self, start: StreamState, epochs: int) -> Iterator[Places]:
        """Yield where the patches of every batch lie, from `start` on."""
        if self.order.n_samples != len(self.source):
            return  # of something else than these patches: nothing of it is known here
        for state in self.states(start, epochs):
            yield self.source.places(self.order.rank_batch(state.epoch, state.step, self.world))

    def states(self, start: StreamState, epochs: int) -> Iterator[StreamState]:
        """Yield every state from `start` to the end of the last of `epochs` epochs."""
        for epoch in range(start.epoch, epochs):
            first = start.step if epoch == start.epoch else 0
            for step in range(first, self.order.steps):
                yield StreamState(epoch=epoch, step=step)
