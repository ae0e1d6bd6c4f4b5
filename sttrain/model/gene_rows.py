"""The rows of the gene table that a batch uses: their gradient is never as long as the vocabulary.

A global batch names a few thousand of tens of thousands of genes. Their rows are copied to a
leaf of their own, (U, D), which the model uses in place of the table; so the gradient, its norm
and what ranks exchange have U rows. The update is that of the whole table, bit for bit what
:class:`torch.optim.AdamW` would do with a dense gradient: the running means of a gene that was not
drawn decay, and it still moves by them. It goes through the table in pieces.

Letters: B batch, M genes of a patch, K vocabulary, U genes of the global batch, D width.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adam import adam

from sttrain.model.autoencoder import Sites
from sttrain.model.places import send

_PIECE: Final = 1 << 18
"""Numbers of a piece of the table: 1 MiB, and as much for each running mean and the gradient."""


class GeneRows:
    """The rows of a gene table that a global batch uses.

    Parameters
    ----------
    table
        (K, D) the whole table; it needs no gradient.
    drawn
        (K,) bool, genes of the global batch: the same on every rank.
    """

    def __init__(self, table: Tensor, drawn: NDArray[np.bool_]) -> None:
        genes = np.flatnonzero(drawn)
        self._row = np.full(len(drawn), -1, np.int64)
        self._row[genes] = np.arange(len(genes))
        self.genes = send(torch.from_numpy(genes), table.device)
        """(U,) int64, ascending."""
        self.values = table.detach()[self.genes].requires_grad_()
        """(U, D), the leaf."""

    def lend(self, sites: Sites, genes: NDArray[np.int32]) -> Sites:
        """Return sites that use these rows in place of the model's table.

        Parameters
        ----------
        sites
            A batch, or part of it.
        genes
            (B, M) its genes, -1 = padding.
        """
        rows = self._row[np.maximum(genes, 0)]
        # What is padding counts nowhere; any row will do.
        found = send(torch.from_numpy(np.maximum(rows, 0)), self.values.device)
        return replace(sites, rows=found, table=self.values)


def drawn_genes(genes: NDArray[np.int32], n_genes: int) -> NDArray[np.bool_]:
    """Return (K,) which genes a batch (B, M) names; the first of all if it names none."""
    drawn = np.zeros(n_genes, bool)
    drawn[genes[genes >= 0]] = True
    drawn[0] |= not drawn.any()
    return drawn


class RowOptimizer:
    """Updates a whole table from the gradient of some of its rows.

    Parameters
    ----------
    table
        (K, D) weights, which have a group of `optimizer` to themselves and no gradient.
    optimizer
        Adam or AdamW: whose settings and state of the table are used, and which leaves the table
        itself alone.
    """

    def __init__(self, table: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        self._table, self._optimizer = table, optimizer
        self._group = next(g for g in optimizer.param_groups if g["params"][0] is table)

    def take(self, rows: GeneRows) -> None:
        """Let the optimizer know of this step's rows: a loss scaler looks at their gradient too."""
        self._group["params"][1:] = [rows.values]

    @torch.no_grad()
    def step(self, rows: GeneRows) -> None:
        """Update the table from the gradient of `rows`, and drop that."""
        gradient, rows.values.grad = rows.values.grad, None
        if gradient is None:
            return
        table, state = self._table, self._state()
        n = max(1, (_PIECE if table.device.type == "cpu" else 16 * _PIECE) // table.shape[1])
        piece = torch.zeros(min(n, len(table)), table.shape[1], device=table.device)
        starts = torch.arange(0, len(table) + n, n, device=table.device)
        edges = torch.searchsorted(rows.genes, starts).tolist()
        for first, start, end in zip(range(0, len(table), n), edges, edges[1:], strict=False):
            whole = piece[: len(table) - first].zero_()
            whole[rows.genes[start:end] - first] = gradient[start:end]
            part = slice(first, first + n)
            means = state["exp_avg"][part], state["exp_avg_sq"][part]
            self._update(table[part], whole, *means, state["step"].clone())
        state["step"] += 1

    def _state(self) -> dict[str, Tensor]:
        """Return the optimizer's state of the table, as the optimizer itself would begin it."""
        state: dict[str, Tensor] = self._optimizer.state[self._table]
        if not state:
            device = self._table.device if self._table.is_cuda else None
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(self._table)
            state["exp_avg_sq"] = torch.zeros_like(self._table)
        return state

    def _update(
        self, weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: Tensor
    ) -> None:
        group = self._group
        adam(
            [weights], [gradient], [mean], [square], [], [step], fused=True, amsgrad=False,
            decoupled_weight_decay=group["decoupled_weight_decay"], maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], eps=group["eps"],
            weight_decay=group["weight_decay"],
        )  # fmt: skip
