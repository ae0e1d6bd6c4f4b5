"""The paper's small network, many of it at once: all seeds and splits of a data set in one problem.

Every problem has its own weights, its own training spots, its own order and its own generator, so
what it learns does not depend on what it is trained beside; only the arithmetic is shared, as
batched matrix products. Letters: Q problems, T training spots, D features, B batch, C columns
of class scores (at least the classes, a multiple of 16), S steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HIDDEN: Final = (512, 256, 128)
LEARNING_RATE: Final = 1e-3
BATCH: Final = 32
GROUP: Final = 8
"""Problems that are trained together. A step of one at D = 128 took 1.34 ms alone and 1.19 ms among
8, on a machine with other work (scikit-learn: 2.52 ms); 16 gained nothing more. What is left is
matrix products (68 %) and Adam (17 %)."""
_GROUP_BYTES: Final = 2**29
"""Memory that weights, moments and inputs of a group may take; a group is never below one."""
_LANES: Final = 16
"""Columns of the last layer are a multiple of it, whatever the classes: the same kernels then run
on every problem."""
_PREDICT_ROWS: Final = 8192
_SEGMENT: Final = 512
"""Steps whose batches are laid out at a time."""
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class MlpProblem:
    """One network to train. Features are already scaled."""

    inputs: Tensor
    """(T, D) float32."""
    targets: Tensor
    """(T,) int64, positions among the classes."""
    n_classes: int
    seed: int
    epochs: int
    patience: int | None = None
    """Stop when the loss on a held-out tenth of the training spots has not improved for so many
    epochs, and keep the best weights; none trains all epochs on all training spots."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: weights (outputs, inputs) and biases of the four layers."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    n_classes: int
    epochs: int
    """Epochs that were trained."""

    def predict(self, inputs: Tensor) -> NDArray[np.int64]:
        """Return the most probable class of every row of (N, D) inputs."""
        layers = [(weight[None], bias[None]) for weight, bias in self.layers]
        found = [
            _forward(layers, inputs[None, start : start + _PREDICT_ROWS])[-1][0]
            for start in range(0, max(len(inputs), 1), _PREDICT_ROWS)
        ]
        return np.asarray(torch.cat(found)[:, : self.n_classes].argmax(dim=1).numpy(), np.int64)


def group_size(n_inputs: int, n_spots: int) -> int:
    """Return how many problems of D features and T spots are best trained together."""
    weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise((n_inputs, *HIDDEN)))
    per_problem = 4 * (4 * weights + n_inputs * n_spots)
    return min(GROUP, max(1, _GROUP_BYTES // per_problem))


def train_networks(problems: Sequence[MlpProblem]) -> list[Network]:
    """Train 512-256-128 ReLU networks: Adam 1e-3, batches of 32, mean cross-entropy, float32.

    Every draw of a problem (weights, held-out spots, order) comes from one generator with its
    seed. A problem leaves the group when its epochs are over.

    Parameters
    ----------
    problems
        All with the same number of features; anything else may differ.
    """
    runs = [_Run(problem) for problem in problems]
    active = runs
    columns = -(-max(problem.n_classes for problem in problems) // _LANES) * _LANES
    group = _Group([run.first_layers(columns) for run in runs])
    inputs = torch.cat([run.problem.inputs for run in active])
    step = 0
    while active:
        n_steps = min(_SEGMENT, *(run.next_stop - step for run in active))
        with torch.no_grad():
            for batch in _segment(active, n_steps):
                group.step(inputs, batch)
        step += n_steps
        going = [
            place
            for place, run in enumerate(active)
            if step < run.next_stop or run.goes_on(group.layers_of(place))
        ]
        if len(going) < len(active):
            active = [active[place] for place in going]
            group = group.keep(going)
            inputs = torch.cat([inputs[:0], *(run.problem.inputs for run in active)])
    return [run.network() for run in runs]


@dataclass(frozen=True)
class _Batch:
    """One step of all problems of a group."""

    rows: Tensor
    """(Q * B,) rows of the joined inputs."""
    targets: Tensor
    """(Q, B, 1) classes."""
    shares: Tensor
    """(Q, B, 1) weight of each spot in the mean loss; 0 where a last batch is not full."""


def _segment(runs: "Sequence[_Run]", n_steps: int) -> Iterator[_Batch]:
    """Yield the batches of the next steps of all problems."""
    rows, targets, shares = [], [], []
    offset = 0
    for run in runs:
        order, share = run.next_batches(n_steps)  # (S, B) each
        rows.append(order + offset)
        targets.append(run.problem.targets[order])
        shares.append(share)
        offset += len(run.problem.targets)
    # (S, Q, B) each
    joined = (torch.stack(parts, dim=1) for parts in (rows, targets, shares))
    for where, wanted, share in zip(*(part.unbind() for part in joined), strict=True):
        yield _Batch(where.flatten(), wanted[..., None], share[..., None])


class _Run:
    """What belongs to one problem alone: its draws, when it stops, its best weights."""

    def __init__(self, problem: MlpProblem) -> None:
        self.problem = problem
        self.generator = torch.Generator().manual_seed(problem.seed)
        self.layers = _new_layers(problem.inputs.shape[1], problem.n_classes, self.generator)
        self.kept, self.held = torch.arange(len(problem.targets)), torch.arange(0)
        if problem.patience is not None:
            shuffled = torch.randperm(len(problem.targets), generator=self.generator)
            n_held = max(1, round(_HELD_OUT * len(shuffled)))
            self.held, self.kept = shuffled[:n_held], shuffled[n_held:]
        self.per_epoch = -(-len(self.kept) // BATCH)
        self.pending = torch.empty(0, BATCH, dtype=torch.int64), torch.empty(0, BATCH)
        self.epochs = 0
        self.best, self.since = float("inf"), 0

    @property
    def next_stop(self) -> int:
        """The step at which this problem wants to be looked at: an epoch's end, or its end."""
        ahead = self.problem.epochs if self.problem.patience is None else self.epochs + 1
        return ahead * self.per_epoch

    def first_layers(self, columns: int) -> list[tuple[Tensor, Tensor]]:
        """Return its first weights; columns beyond its classes are never probable."""
        weight, bias = self.layers[-1]
        spare = columns - self.problem.n_classes
        wide = torch.nn.functional.pad(weight, (0, 0, 0, spare))
        return [
            *self.layers[:-1],
            (wide, torch.nn.functional.pad(bias, (0, spare), value=-float("inf"))),
        ]

    def next_batches(self, n_steps: int) -> tuple[Tensor, Tensor]:
        """Return the spots (S, B) of the next steps and their weights in the mean."""
        orders, shares = self.pending
        while len(orders) < n_steps:
            shuffled = self.kept[torch.randperm(len(self.kept), generator=self.generator)]
            spare = self.per_epoch * BATCH - len(shuffled)
            order = torch.nn.functional.pad(shuffled, (0, spare)).view(-1, BATCH)
            share = torch.full((self.per_epoch, BATCH), 1 / BATCH)
            share[-1] = (torch.arange(BATCH) < BATCH - spare) / (BATCH - spare)
            orders, shares = torch.cat([orders, order]), torch.cat([shares, share])
        self.pending = orders[n_steps:], shares[n_steps:]
        return orders[:n_steps], shares[:n_steps]

    def goes_on(self, layers: list[tuple[Tensor, Tensor]]) -> bool:
        """Take note of the weights at a stop and return whether training goes on."""
        problem = self.problem
        if problem.patience is None:
            self.epochs, self.layers = problem.epochs, _copy(layers)
            return False
        self.epochs += 1
        scores = _forward([(w[None], b[None]) for w, b in layers], problem.inputs[None, self.held])
        loss = torch.nn.functional.cross_entropy(scores[-1][0], problem.targets[self.held]).item()
        self.since = 0 if loss < self.best else self.since + 1
        if loss < self.best:
            self.best, self.layers = loss, _copy(layers)
        return self.since < problem.patience and self.epochs < problem.epochs

    def network(self) -> Network:
        """Return what was learnt."""
        return Network(
            layers=tuple(self.layers), n_classes=self.problem.n_classes, epochs=self.epochs
        )


class _Group:
    """Weights and biases of Q problems, (Q, outputs, inputs) and (Q, outputs), and their Adam."""

    def __init__(self, runs: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        self.layers = [
            (torch.stack([w for w, _ in same]), torch.stack([b for _, b in same]))
            for same in zip(*runs, strict=True)
        ]
        for tensor in self._parameters():
            tensor.grad = torch.zeros_like(tensor)
        self.optimizer = torch.optim.Adam(self._parameters(), lr=LEARNING_RATE, fused=True)

    def _parameters(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in layer]

    def layers_of(self, place: int) -> list[tuple[Tensor, Tensor]]:
        """Return the weights and biases of one problem."""
        return [(weight[place], bias[place]) for weight, bias in self.layers]

    def keep(self, places: Sequence[int]) -> "_Group":
        """Return the group of some of its problems, moments and all."""
        kept = _Group([self.layers_of(place) for place in places] or [self.layers_of(0)])
        for old, new in zip(self._parameters(), kept._parameters(), strict=True):
            for name, value in self.optimizer.state[old].items():
                whole = name == "step" or not places
                kept.optimizer.state[new][name] = value if whole else value[list(places)]
        return kept

    def step(self, inputs: Tensor, batch: _Batch) -> None:
        """Take one step of Adam on every problem."""
        n_problems = batch.targets.shape[0]
        shown = inputs.index_select(0, batch.rows).view(n_problems, BATCH, inputs.shape[1])
        differentiate(self.layers, shown, batch.targets, batch.shares)
        self.optimizer.step()


def differentiate(
    layers: Sequence[tuple[Tensor, Tensor]], inputs: Tensor, targets: Tensor, shares: Tensor
) -> None:
    """Fill in the gradients of the mean cross-entropy of every problem.

    By hand, because autograd's bookkeeping is a fifth of the time of so small a network; a test
    compares it with autograd.

    Parameters
    ----------
    layers
        (Q, outputs, inputs) weights and (Q, outputs) biases, their ``grad`` allocated.
    inputs
        (Q, B, D).
    targets
        (Q, B, 1) int64.
    shares
        (Q, B, 1) weight of each row in its problem's mean.
    """
    *hidden, scores = _forward(layers, inputs)
    delta = torch.softmax(scores, dim=2)
    delta.scatter_add_(2, targets, torch.full_like(shares, -1.0)).mul_(shares)
    below = [inputs, *hidden]
    for (weight, bias), before in zip(reversed(layers), reversed(below), strict=True):
        torch.bmm(delta.transpose(1, 2), before, out=weight.grad)
        torch.sum(delta, dim=1, out=bias.grad)
        if before is not inputs:
            delta = torch.ops.aten.threshold_backward(torch.bmm(delta, weight), before, 0)


def _forward(layers: Sequence[tuple[Tensor, Tensor]], inputs: Tensor) -> list[Tensor]:
    """Return the hidden states (Q, B, H) and at last the scores (Q, B, C) of inputs (Q, B, D)."""
    states = [inputs]
    for number, (weight, bias) in enumerate(layers):
        state = torch.baddbmm(bias[:, None], states[-1], weight.transpose(1, 2))
        states.append(state if number == len(layers) - 1 else state.relu_())
    return states[1:]


def _new_layers(
    n_inputs: int, n_classes: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Draw weights (outputs, inputs) and biases uniformly within 1 / sqrt(inputs)."""
    layers = []
    for fan_in, fan_out in pairwise((n_inputs, *HIDDEN, n_classes)):
        bound = float(max(fan_in, 1)) ** -0.5
        weight = (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) * bound  # transposed
        bias = (torch.rand(fan_out, generator=generator) * 2 - 1) * bound
        layers.append((weight.T.contiguous(), bias))
    return layers


def _copy(layers: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(weight.clone(), bias.clone()) for weight, bias in layers]
