"""Classifiers on top of fixed features: neighbours, logistic regression, the paper's network.

A head is fitted on some rows and predicts all of them; it knows nothing of splits or slices.
Several fits may be handed over together; what each predicts does not depend on the others.
Letters: N spots, T training spots, D features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Codes: TypeAlias = NDArray[np.int16]
Scaling = Literal["common", "each"]
"""``common``: centred, one scale for all features, so that their proportions stay. ``each``: every
feature centred and divided by its own standard deviation."""

_LOGISTIC_ITERATIONS: Final = 1000
_RANK_TOLERANCE: Final = 1e-7
"""Directions of the training rows whose singular value is below this share of the largest carry
nothing but rounding."""


@dataclass(frozen=True, kw_only=True)
class FitTask:
    """One fit: which rows train, and the seed of whatever is random."""

    features: NDArray[np.float32]
    """(N, D)."""
    labels: Codes
    """(N,) label codes."""
    train: NDArray[np.int64]
    """(T,) rows to fit on."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit says."""

    predicted: Codes
    """(N,) codes."""
    epochs: int | None = None
    """Epochs that were trained, where there are any."""
    converged: bool | None = None
    """Whether the solver ended before its limit of iterations, where there is one."""


class Head(Protocol):
    """A classifier with its settings."""

    @property
    def name(self) -> str:
        """Name in tables; what decides it most stands in it."""
        ...

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether the seed decides anything."""
        ...

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        ...

    def together(self, tasks: Sequence[FitTask]) -> int:
        """Return how many of these tasks are best fitted in one call."""
        ...

    def fit(self, tasks: Sequence[FitTask]) -> list[Fitted]:
        """Fit every task and return what each says, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class KnnHead:
    """Majority of the k nearest training spots, Euclidean; a tie goes to the lowest code."""

    k: int = 10
    scaling: Scaling = "common"
    """One common scale changes no neighbour, so features are then taken as they are."""

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"kNN (k={self.k}{_suffix(self.scaling)})"

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        return self.k

    @property
    def is_random(self) -> bool:
        """Nothing is drawn."""
        return False

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        return {"head": "knn", "k": self.k, "metric": "euclidean", "scaling": self.scaling}

    def together(self, tasks: Sequence[FitTask]) -> int:
        """One: nothing is shared."""
        del tasks
        return 1

    def fit(self, tasks: Sequence[FitTask]) -> list[Fitted]:
        """Fit every task."""
        return [Fitted(predicted=self._predict(task)) for task in tasks]

    def _predict(self, task: FitTask) -> Codes:
        from sklearn.neighbors import KNeighborsClassifier

        rows = task.features
        if self.scaling == "each":
            rows = standardise(rows, task.train, self.scaling)
        model = KNeighborsClassifier(n_neighbors=self.k).fit(rows[task.train], _targets(task)[1])
        return np.asarray(_targets(task)[0][model.predict(rows)], np.int16)


@dataclass(frozen=True, kw_only=True)
class LogisticHead:
    """Multinomial logistic regression, L2 penalty C = 1, scikit-learn's L-BFGS, float64."""

    scaling: Scaling = "common"

    @property
    def name(self) -> str:
        """Name in tables."""
        return "logistic" if self.scaling == "common" else "logistic (per dimension)"

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        return 2

    @property
    def is_random(self) -> bool:
        """Nothing is drawn."""
        return False

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        return {
            "head": "logistic",
            "penalty": "l2",
            "C": 1.0,
            "solver": "lbfgs",
            "max_iter": _LOGISTIC_ITERATIONS,
            "scaling": self.scaling,
        }

    def together(self, tasks: Sequence[FitTask]) -> int:
        """One: nothing is shared."""
        del tasks
        return 1

    def fit(self, tasks: Sequence[FitTask]) -> list[Fitted]:
        """Fit every task."""
        return [self._fit(task) for task in tasks]

    def _fit(self, task: FitTask) -> Fitted:
        from sklearn.linear_model import LogisticRegression

        rows = standardise(task.features, task.train, self.scaling).astype(np.float64)
        rows = _in_row_space(rows, task.train)
        classes, targets = _targets(task)
        model = LogisticRegression(C=1.0, max_iter=_LOGISTIC_ITERATIONS)
        model.fit(rows[task.train], targets)
        return Fitted(
            predicted=np.asarray(classes[model.predict(rows)], np.int16),
            converged=bool(np.all(model.n_iter_ < _LOGISTIC_ITERATIONS)),
        )


@dataclass(frozen=True, kw_only=True)
class MlpHead:
    """The paper's network: 512-256-128 ReLU, Adam 1e-3, batch 32, cross-entropy, float32.

    With the common scale the unit of an embedding does not matter, and the proportions between its
    dimensions stay (per-dimension scaling collapses smoothed components under ``block20``).
    """

    epochs: int = 800
    patience: int | None = None
    """As in `sttrain.judge.mlp.MlpProblem`."""
    max_steps: int | None = None
    """Train so many whole epochs that this number of steps is not exceeded (one at least)."""
    scaling: Scaling = "common"

    @property
    def name(self) -> str:
        """Name in tables; the epochs belong to it."""
        stop = f", patience {self.patience}" if self.patience else ""
        cap = f", at most {self.max_steps:,} steps" if self.max_steps else ""
        return f"MLP ({self.epochs} epochs{stop}{cap}{_suffix(self.scaling)})"

    @property
    def least(self) -> int:
        """Training spots that are needed."""
        return 2

    @property
    def is_random(self) -> bool:
        """Weights and order are drawn."""
        return True

    def settings(self) -> dict[str, object]:
        """Return all that decides its predictions, as JSON values."""
        from sttrain.judge.mlp import BATCH, HIDDEN, LEARNING_RATE

        return {
            "head": "mlp",
            "hidden": list(HIDDEN),
            "epochs": self.epochs,
            "patience": self.patience,
            "max_steps": self.max_steps,
            "learning_rate": LEARNING_RATE,
            "batch": BATCH,
            "optimizer": "adam",
            "scaling": self.scaling,
        }

    def together(self, tasks: Sequence[FitTask]) -> int:
        """Return the size of a group that stays in the processor's cache."""
        from sttrain.judge.mlp import group_size

        return group_size(tasks[0].features.shape[1], max(task.train.size for task in tasks))

    def epochs_for(self, n_train: int) -> int:
        """Return the epochs that T training spots are given."""
        from sttrain.judge.mlp import BATCH

        if self.max_steps is None:
            return self.epochs
        return min(self.epochs, max(1, self.max_steps // -(-n_train // BATCH)))

    def fit(self, tasks: Sequence[FitTask]) -> list[Fitted]:
        """Train the networks of all tasks together; all need the same number of features."""
        import torch

        from sttrain.judge.mlp import MlpProblem, train_networks

        problems = []
        for task in tasks:
            classes, targets = _targets(task)
            # Scaled again for the prediction: all rows of all tasks do not fit at once.
            rows = standardise(task.features, task.train, self.scaling, rows=task.train)
            problems.append(
                MlpProblem(
                    inputs=torch.from_numpy(rows),
                    targets=torch.from_numpy(targets),
                    n_classes=classes.size,
                    seed=task.seed,
                    epochs=self.epochs_for(task.train.size),
                    patience=self.patience,
                )
            )
        found = []
        for task, network in zip(tasks, train_networks(problems), strict=True):
            rows = standardise(task.features, task.train, self.scaling)
            predicted = _targets(task)[0][network.predict(torch.from_numpy(rows))]
            found.append(Fitted(predicted=predicted.astype(np.int16), epochs=network.epochs))
        return found


@dataclass(frozen=True, kw_only=True)
class MajorityHead:
    """The most frequent training class for every spot; it stands in for every head."""

    def fit(self, tasks: Sequence[FitTask]) -> list[Fitted]:
        """Return the most frequent class of the training spots; ties go to the lowest code."""
        found = []
        for task in tasks:
            classes, counts = np.unique(task.labels[task.train], return_counts=True)
            most = classes[int(counts.argmax())]
            found.append(Fitted(predicted=np.full(len(task.labels), most, np.int16)))
        return found


def standardise(
    features: NDArray[np.float32],
    train: NDArray[np.int64],
    scaling: Scaling,
    *,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Centre and scale features by what the training rows say.

    Parameters
    ----------
    features
        (N, D) float32.
    train
        (T,) rows that the means and scales are taken from.
    scaling
        One scale for all features, the root mean square of what is left after centring, or one
        of its own for each; 1 where nothing varies.
    rows
        Rows to return; all without it.

    Returns
    -------
    numpy.ndarray
        (N, D) or (rows, D) float32.
    """
    wide = features[train].astype(np.float64)
    mean = wide.mean(axis=0)
    squares = np.mean((wide - mean) ** 2, axis=0)
    if scaling == "common":
        squares = np.full(squares.shape, squares.mean() if squares.size else 0.0)
    # What varies by rounding alone is constant.
    constant = squares <= (mean**2 + squares) * np.finfo(np.float32).eps ** 2
    scale = np.sqrt(np.where(constant, 1.0, squares)).astype(np.float32)
    chosen = features if rows is None else features[rows]
    return np.asarray((chosen - mean.astype(np.float32)) / scale, np.float32)


def _in_row_space(rows: NDArray[np.float64], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rotate (N, D) rows into the at most T directions that the training rows span, if D > T.

    An L2 penalty does not see rotations, and weights outside of the span stay 0: the predictions
    are the same, at a cost that no longer grows with the genes.
    """
    if rows.shape[1] <= train.size:
        return rows
    products = rows @ rows[train].T  # (N, T): the only product over all features
    values, vectors = np.linalg.eigh(products[train])
    singular = np.sqrt(np.maximum(values, 0.0))
    kept = singular > singular[-1] * _RANK_TOLERANCE
    if not kept.any():
        return rows[:, :1]
    return np.asarray(products @ (vectors[:, kept] / singular[kept]))


def _targets(task: FitTask) -> tuple[Codes, NDArray[np.int64]]:
    """Return the codes that occur in training, ascending, and the position of each spot's."""
    classes, targets = np.unique(task.labels[task.train], return_inverse=True)
    return classes, targets.astype(np.int64)


def _suffix(scaling: Scaling) -> str:
    return "" if scaling == "common" else ", per dimension"
