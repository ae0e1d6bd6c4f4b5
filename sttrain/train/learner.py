"""Model and objective as one module: a batch and its masks in, the errors of its patches out.

What DDP wraps; it exchanges nothing itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, normalise
from sttrain.model.gene_rows import GeneRows
from sttrain.stream.batches import Batch
from sttrain.train.augment import turn_batch
from sttrain.train.centring import SliceMeans
from sttrain.train.compiling import loosen
from sttrain.train.config import RunConfig
from sttrain.train.losses import count_errors, smooth_targets
from sttrain.train.objectives import draw_hidden, draw_values, squared_errors
from sttrain.train.statistics import as_tensors

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
            slices=("",),
            domains=None if like.domains is None else np.zeros((1, *like.domains.shape[1:]), int),
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
            slices=whole.slices[rows],
            domains=None if whole.domains is None else whole.domains[rows],
        )
        hidden = Hidden(
            sites=self.hidden.sites[rows], elements=None if elements is None else elements[rows]
        )
        return Task(
            batch=batch, hidden=hidden, n_targets=count_targets(batch, hidden), lent=self.lent
        )


@dataclass(frozen=True, kw_only=True)
class SliceFacts:
    """What training knows of slices besides their patches."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    """Layout of the grid of each slice, which says how patches may be turned."""
    means: SliceMeans | None = None
    """Means of the genes of each slice, where values are centred by them."""


class Learner(nn.Module):
    """A model and what it is asked.

    Parameters
    ----------
    model
        The model; its parameters are all that is learnt.
    config
        Objective, loss, masks, precision and seed.
    facts
        Of the slices that batches come from.
    compiled
        Whether the model is compiled code, which is told what lengths may vary.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        config: RunConfig,
        facts: SliceFacts | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.config, self.facts = model, config, facts or SliceFacts()
        self.compiled = compiled

    def prepare(self, batch: Batch, *, held_out: bool = False) -> Task:
        """Draw what is hidden of a batch, on the CPU; patches are turned first, if they are at all.

        Parameters
        ----------
        batch
            Samples.
        held_out
            Leave them as they are, to be judged by.
        """
        if self.config.augment and not held_out:
            batch = turn_batch(batch, self.config.seed, self.facts.layouts)
        keys = {"seed": self.config.seed, "epoch": batch.epoch, "step": batch.step}
        rows, totals = torch.from_numpy(batch.rows), torch.from_numpy(batch.totals.astype("int64"))
        if self.config.objective == "patch":
            genes = batch.genes.shape[1]
            hidden = draw_hidden(self.config.mask, **keys, rows=rows, totals=totals, genes=genes)
        else:
            real = torch.from_numpy(batch.genes >= 0)
            hidden = draw_values(self.config.mask, **keys, rows=rows, totals=totals, real=real)
        return Task(batch=batch, hidden=hidden, n_targets=count_targets(batch, hidden))

    def forward(self, task: Task) -> Tensor:
        """Return the sum (B,) of the errors of each sample."""
        device, batch = self.model.table.device, task.batch
        counts, genes, totals = as_tensors(batch.counts, batch.genes, batch.totals, device)
        sites = replace(normalise(counts, genes, totals), means=self._means(batch, device))
        if task.lent is not None:
            sites = task.lent.lend(sites, batch.genes)
        # Places are found here, on the host, so that no device waits for their number.
        hidden = task.hidden.located(torch.from_numpy(batch.totals > 0).flatten(1)).to(device)
        domains = None
        if batch.domains is not None:
            domains = torch.from_numpy(batch.domains).to(device)
        if self.compiled:
            loosen(sites, hidden)
        kind = AUTOCAST.get(self.config.precision)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            found = self.model(sites, hidden, domains)
        if self.config.loss != "mse":
            return count_errors(sites, hidden, found, counts, totals)
        if self.config.smooth:
            sites = replace(sites, values=smooth_targets(sites, self.config.smooth))
        return squared_errors(sites, hidden, found)[0]

    def _means(self, batch: Batch, device: torch.device) -> Tensor | None:
        if self.facts.means is None:
            return None
        if batch.slices == ("",):  # the blank task: no gene of it is real
            return torch.zeros(batch.genes.shape, device=device)
        return self.facts.means.of(batch.slices, torch.from_numpy(batch.genes)).to(device)


def count_targets(batch: Batch, hidden: Hidden) -> int:
    """Return the number of hidden values of real genes at observed sites."""
    real = torch.from_numpy(batch.genes >= 0)
    found = int((hidden.sites.sum(1) * real.sum(1)).sum())
    if hidden.elements is not None:
        observed = torch.from_numpy(batch.totals > 0).flatten(1)
        shown = (observed & ~hidden.sites)[:, None, :] & real[:, :, None]
        found += int((hidden.elements & shown).sum())
    return found
