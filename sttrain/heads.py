"""Classifiers on top of fixed features: nearest neighbours and the paper's small network.

A head is fitted on some rows and predicts all of them; it knows nothing of splits or slices.
Letters: N spots, T training spots, D features, C classes.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Codes: TypeAlias = NDArray[np.int16]

HIDDEN: Final = (512, 256, 128)
LEARNING_RATE: Final = 1e-3
BATCH: Final = 32
_PREDICT_ROWS: Final = 8192
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class KnnHead:
    """Majority of the k nearest training spots, Euclidean, features as they are."""

    k: int = 10

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"kNN (k={self.k})"

    @property
    def epochs(self) -> int | None:
        """No epochs."""
        return None

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        return self.k

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        return {"head": "knn", "k": self.k, "metric": "euclidean", "scaling": None}

    def fit_predict(
        self, features: NDArray[np.float32], labels: Codes, train: NDArray[np.int64], seed: int
    ) -> Codes:
        """Fit on the rows `train` of (N, D) features and return N codes; `seed` is not used."""
        del seed
        from sklearn.neighbors import KNeighborsClassifier

        model = KNeighborsClassifier(n_neighbors=self.k).fit(features[train], labels[train])
        return np.asarray(model.predict(features), np.int16)


@dataclass(frozen=True, kw_only=True)
class MlpHead:
    """The paper's network: 512-256-128 ReLU, Adam 1e-3, batch 32, cross-entropy, float32.

    Features are centred and divided by one common scale, the root mean square over all training
    spots and features: the unit of an embedding then does not matter, and the proportions
    between its dimensions stay (per-dimension scaling collapses smoothed components).
    """

    epochs: int = 800
    patience: int | None = None
    """Stop when the loss on a held-out tenth of the training spots has not improved for so many
    epochs, and keep the best weights; none trains all epochs on all training spots."""

    @property
    def name(self) -> str:
        """Name in tables; the epochs belong to it."""
        stop = f", patience {self.patience}" if self.patience else ""
        return f"MLP ({self.epochs} epochs{stop})"

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        return 2

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        return {
            "head": "mlp",
            "hidden": list(HIDDEN),
            "epochs": self.epochs,
            "patience": self.patience,
            "learning_rate": LEARNING_RATE,
            "batch": BATCH,
            "optimizer": "adam",
            "scaling": "centred, one common scale",
        }

    def fit_predict(
        self, features: NDArray[np.float32], labels: Codes, train: NDArray[np.int64], seed: int
    ) -> Codes:
        """Fit on the rows `train` of (N, D) features and return N codes.

        Every draw (weights, order, held-out spots) comes from one generator with this seed.
        """
        import torch

        classes, targets = np.unique(labels[train], return_inverse=True)
        mean, scale = common_scale(features[train])
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.from_numpy((features[train] - mean) / scale)
        layers = _new_layers(inputs.shape[1], classes.size, generator)
        _train(layers, inputs, torch.from_numpy(targets), self, generator)
        found = np.empty(features.shape[0], np.int64)
        with torch.no_grad():
            for start in range(0, found.size, _PREDICT_ROWS):
                rows = np.s_[start : start + _PREDICT_ROWS]
                block = torch.from_numpy((features[rows] - mean) / scale)
                found[rows] = _forward(layers, block).argmax(dim=1).numpy()
        return np.asarray(classes[found], np.int16)


Head: TypeAlias = KnnHead | MlpHead


@dataclass(frozen=True, kw_only=True)
class MajorityHead:
    """The most frequent training class for every spot; it stands in for every head."""

    def fit_predict(
        self, features: NDArray[np.float32], labels: Codes, train: NDArray[np.int64], seed: int
    ) -> Codes:
        """Return the most frequent class of the training spots N times; ties go to the lowest."""
        del seed
        classes, counts = np.unique(labels[train], return_counts=True)
        return np.full(features.shape[0], classes[int(counts.argmax())], np.int16)


def common_scale(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], np.float32]:
    """Return the mean of each feature and one scale for all of them.

    Parameters
    ----------
    features
        (T, D) float32.

    Returns
    -------
    tuple
        (D,) mean and the root mean square of what remains; 1 where nothing varies.
    """
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    scale = float(np.sqrt(np.mean((wide - mean) ** 2))) if features.size else 0.0
    return mean.astype(np.float32), np.float32(scale if scale > 0 else 1.0)


def _new_layers(
    n_inputs: int, n_classes: int, generator: "torch.Generator"
) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Draw weights (inputs, outputs) and biases uniformly within 1 / sqrt(inputs).

    Gradients get their place here; `_differentiate` fills it.
    """
    import torch

    sizes = (n_inputs, *HIDDEN, n_classes)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        bound = float(max(fan_in, 1)) ** -0.5
        weight = (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) * bound
        bias = (torch.rand(fan_out, generator=generator) * 2 - 1) * bound
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        layers.append((weight, bias))
    return layers


def _forward(
    layers: "list[tuple[torch.Tensor, torch.Tensor]]", inputs: "torch.Tensor"
) -> "torch.Tensor":
    """Return the class scores (B, C) of inputs (B, D)."""
    import torch

    hidden = inputs
    for weight, bias in layers[:-1]:
        hidden = torch.addmm(bias, hidden, weight).relu_()
    weight, bias = layers[-1]
    return torch.addmm(bias, hidden, weight)


def _train(
    layers: "list[tuple[torch.Tensor, torch.Tensor]]",
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
    head: MlpHead,
    generator: "torch.Generator",
) -> None:
    import torch

    kept = torch.arange(len(inputs))
    held = kept[:0]
    if head.patience is not None:
        shuffled = torch.randperm(len(inputs), generator=generator)
        n_held = max(1, round(_HELD_OUT * len(inputs)))
        held, kept = shuffled[:n_held], shuffled[n_held:]
    parameters = [tensor for layer in layers for tensor in layer]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    best, best_weights, since = float("inf"), [p.detach().clone() for p in parameters], 0
    for _ in range(head.epochs):
        _train_epoch(layers, inputs, targets, optimizer, kept, generator)
        if head.patience is None:
            continue
        with torch.no_grad():
            scores = _forward(layers, inputs[held])
            loss = float(torch.nn.functional.cross_entropy(scores, targets[held]))
        since = 0 if loss < best else since + 1
        if loss < best:
            best, best_weights = loss, [p.detach().clone() for p in parameters]
        if since >= head.patience:
            break
    if head.patience is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, best_weights, strict=True):
                parameter.copy_(value)


def _train_epoch(
    layers: "list[tuple[torch.Tensor, torch.Tensor]]",
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
    optimizer: "torch.optim.Optimizer",
    kept: "torch.Tensor",
    generator: "torch.Generator",
) -> None:
    import torch

    order = kept[torch.randperm(len(kept), generator=generator)]
    shuffled, wanted = inputs[order], targets[order]
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            batch = np.s_[start : start + BATCH]
            _differentiate(layers, shuffled[batch], wanted[batch])
            optimizer.step()


def _differentiate(
    layers: "list[tuple[torch.Tensor, torch.Tensor]]",
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
) -> None:
    """Fill in the gradients of the mean cross-entropy of inputs (B, D) and targets (B,).

    By hand, because autograd's bookkeeping is a fifth of the time of so small a network; a test
    compares it with autograd.
    """
    import torch

    hidden = [inputs]
    for weight, bias in layers[:-1]:
        hidden.append(torch.addmm(bias, hidden[-1], weight).relu_())
    weight, bias = layers[-1]
    delta = torch.softmax(torch.addmm(bias, hidden[-1], weight), dim=1)
    delta[torch.arange(len(targets)), targets] -= 1
    delta /= len(targets)
    for (weight, bias), before in zip(reversed(layers), reversed(hidden), strict=True):
        torch.mm(before.T, delta, out=weight.grad)
        torch.sum(delta, dim=0, out=bias.grad)
        if before is not inputs:
            delta = torch.mm(delta, weight.T) * (before > 0)
