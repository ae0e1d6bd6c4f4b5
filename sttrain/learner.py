"""Model and objective as one module: a batch and its masks in, the errors of its patches out.

What DDP wraps; it exchanges nothing itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from sttrain.compiling import loosen
from sttrain.config import RunConfig
from sttrain.gene_rows import GeneRows
from sttrain.model import Hidden, MaskedAutoencoder, normalise
from sttrain.objectives import draw_hidden, squared_errors
from sttrain.statistics import as_tensors
from sttrain.stream import Batch

AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the large products under a precision; fp32 has none."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A batch and what is hidden of it."""

    batch: Batch
    hidden: Hidden
    n_targets: int
    """Hidden values of real genes at observed sites."""
    lent: GeneRows | None = None
    """Rows of the gene table that are used in its place."""

    def parts(self, most: int | None) -> Iterator["Task"]:
        """Yield the task in parts of at most `most` patches; nothing of an empty one."""
        n = len(self.batch.keys)
        for first in range(0, n, most or max(n, 1)):
            yield self._rows(slice(first, first + (most or n)))

    def blank(self) -> "Task":
        """Return a task of one patch without an observed site: no target, a gradient of 0."""
        like = self.batch
        batch = replace(
            like,
            counts=np.zeros((1, *like.counts.shape[1:]), like.counts.dtype),
            genes=np.full((1, *like.genes.shape[1:]), -1, like.genes.dtype),
            totals=np.zeros((1, *like.totals.shape[1:]), like.totals.dtype),
            keys=("",),
            rows=np.zeros(1, np.int64),
        )
        sites = torch.zeros(1, *self.hidden.sites.shape[1:], dtype=torch.bool)
        elements = self.hidden.elements
        if elements is not None:
            elements = torch.zeros(1, *elements.shape[1:], dtype=torch.bool)
        hidden = Hidden(sites=sites, elements=elements)
        return Task(batch=batch, hidden=hidden, n_targets=0, lent=self.lent)

    def _rows(self, rows: slice) -> "Task":
        whole, elements = self.batch, self.hidden.elements
        batch = replace(
            whole,
            counts=whole.counts[rows],
            genes=whole.genes[rows],
            totals=whole.totals[rows],
            keys=whole.keys[rows],
            rows=whole.rows[rows],
        )
        hidden = Hidden(
            sites=self.hidden.sites[rows], elements=None if elements is None else elements[rows]
        )
        return Task(
            batch=batch, hidden=hidden, n_targets=count_targets(batch, hidden), lent=self.lent
        )


class Learner(nn.Module):
    """A model and what it is asked.

    Parameters
    ----------
    model
        The model; its parameters are all that is learnt.
    config
        Masks, precision and seed.
    compiled
        Whether the model is compiled code, which is told what lengths may vary.
    """

    def __init__(
        self, model: MaskedAutoencoder, config: RunConfig, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.compiled = compiled
        self.model, self.config = model, config

    def prepare(self, batch: Batch) -> Task:
        """Draw what is hidden of a batch, on the CPU."""
        hidden = draw_hidden(
            self.config.mask,
            seed=self.config.seed,
            epoch=batch.epoch,
            step=batch.step,
            rows=torch.from_numpy(batch.rows),
            totals=torch.from_numpy(batch.totals.astype("int64")),
            genes=batch.genes.shape[1],
        )
        return Task(batch=batch, hidden=hidden, n_targets=count_targets(batch, hidden))

    def forward(self, task: Task) -> Tensor:
        """Return the sum (B,) of squared errors of each patch."""
        device, batch = self.model.table.device, task.batch
        sites = normalise(*as_tensors(batch.counts, batch.genes, batch.totals, device))
        if task.lent is not None:
            sites = task.lent.lend(sites, batch.genes)
        # Places are found here, on the host, so that no device waits for their number.
        hidden = task.hidden.located(torch.from_numpy(batch.totals > 0).flatten(1)).to(device)
        if self.compiled:
            loosen(sites, hidden)
        kind = AUTOCAST.get(self.config.precision)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            found = self.model(sites, hidden)
        return squared_errors(sites, hidden, found)[0]


def count_targets(batch: Batch, hidden: Hidden) -> int:
    """Return the number of hidden values of real genes at observed sites."""
    real = torch.from_numpy(batch.genes >= 0)
    found = int((hidden.sites.sum(1) * real.sum(1)).sum())
    if hidden.elements is not None:
        observed = torch.from_numpy(batch.totals > 0).flatten(1)
        shown = (observed & ~hidden.sites)[:, None, :] & real[:, :, None]
        found += int((hidden.elements & shown).sum())
    return found
