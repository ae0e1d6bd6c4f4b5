"""The loss on a held-out split, under masks that never change."""

import math
from dataclasses import dataclass, replace

import torch

from sttrain.errors import StError
from sttrain.stream.batches import Batch, PatchSource, StreamState
from sttrain.train.distributed import Ranks
from sttrain.train.slice_source import SliceSource
from sttrain.train.trainer import Trainer
from sttrain.train.units import stream_of

_EPOCH = -1
"""Key of the masks: no epoch of training has it."""


@dataclass(frozen=True, kw_only=True)
class Validator:
    """Some samples of a split; each step of it belongs to one rank.

    The patches are chosen by the seed of the run and are the same every time and for any number of
    ranks, and so are their masks.
    """

    source: PatchSource | SliceSource
    batch: int
    """Samples of a batch."""
    patches: int
    """Samples in all, at most."""

    def loss(self, trainer: Trainer, ranks: Ranks) -> float:
        """Return the loss over all patches, added up over ranks.

        Raises
        ------
        IntegrityError
            A patch is damaged, on any rank.
        """
        order = self.source.order(self.batch, trainer.config.seed)
        stream = stream_of(self.source, order)
        steps = min(order.steps, math.ceil(self.patches / self.batch))
        summed, n_targets, error = 0.0, 0, None
        trainer.model.eval()
        for first in range(0, steps, ranks.world.n_ranks):
            step = first + ranks.world.rank
            if step >= steps and not trainer.sharded:
                break
            try:
                # Past the end sharded ranks take part in what the others gather.
                batch = stream.read(StreamState(epoch=0, step=step % steps))
            except StError as caught:
                error = caught
            if trainer.sharded:
                ranks.agree((), error, trainer.device)
            if error is not None:
                break
            found, counted = _measure(trainer, replace(batch, epoch=_EPOCH), self.batch)
            summed += found if step < steps else 0.0
            n_targets += counted if step < steps else 0
        trainer.model.train()
        total, n = ranks.agree([summed, n_targets], error, trainer.device)
        return total / max(n, 1.0)


@torch.no_grad()
def _measure(trainer: Trainer, batch: Batch, most: int) -> tuple[float, int]:
    """Return the errors and the targets of a batch; no rank's has more patches than `most`."""
    task = trainer.asker.prepare(batch, held_out=True)
    parts = trainer.parts(task, most * trainer.ranks.world.n_ranks)
    summed = sum(float(trainer.asker(part).double().sum()) for part in parts)
    return summed, task.n_targets
