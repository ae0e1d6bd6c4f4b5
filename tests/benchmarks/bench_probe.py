"""The MLP of the probes: all problems of a data set as one, beside scikit-learn and one by one."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from sttrain.judge.heads import FitTask, MlpHead
from sttrain.judge.mlp import BATCH, GROUP, HIDDEN, LEARNING_RATE

FLOOR = 1.5
"""Times scikit-learn per CPU-second that the batched problem must reach."""
HEAD = [
    "| training spots x features | problems | scikit-learn | ours, one by one | ours, together | "
    "times scikit-learn |",
    "|---|---:|---:|---:|---:|---:|",
]


@dataclass(frozen=True)
class ProbeSpeed:
    """CPU milliseconds per step of one problem."""

    n_spots: int
    n_features: int
    n_problems: int
    sklearn: float
    single: float
    batched: float

    @property
    def ratio(self) -> float:
        """How many steps ours takes in the time of one of scikit-learn's."""
        return self.sklearn / self.batched

    def row(self) -> str:
        return (
            f"| {self.n_spots} x {self.n_features} | {self.n_problems} | {self.sklearn:.2f} ms | "
            f"{self.single:.2f} ms | {self.batched:.2f} ms | {self.ratio:.1f} |"
        )


def measure_probe(
    n_features: int, repeats: int, *, n_spots: int = 920, epochs: int = 6, n_problems: int = GROUP
) -> ProbeSpeed:
    """Train the paper's network on noise in all three ways, in turns, on one core."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_spots, n_features)).astype(np.float32)
    labels = rng.integers(0, 7, n_spots).astype(np.int16)
    tasks = [
        FitTask(features=features, labels=labels, train=np.arange(n_spots), seed=seed)
        for seed in range(n_problems)
    ]
    head = MlpHead(epochs=epochs)

    def peer() -> None:
        MLPClassifier(
            HIDDEN, batch_size=BATCH, learning_rate_init=LEARNING_RATE, alpha=0.0,
            max_iter=epochs, n_iter_no_change=epochs + 1, random_state=0,
        ).fit(features, labels)  # fmt: skip

    steps = epochs * -(-n_spots // BATCH)
    ways: list[tuple[Callable[[], object], int]] = [
        (peer, steps),
        (lambda: head.fit(tasks[:1]), steps),
        (lambda: head.fit(tasks), steps * n_problems),
    ]
    times: list[list[float]] = [[], [], []]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            MlpHead(epochs=1).fit(tasks[:1])  # what torch loads at its first step
            for _ in range(repeats):
                for number, (way, n) in enumerate(ways):
                    start = time.process_time()
                    way()
                    times[number].append(1e3 * (time.process_time() - start) / n)
    finally:
        torch.set_num_threads(before)
    return ProbeSpeed(n_spots, n_features, n_problems, *(median(found) for found in times))


def probe_lines(repeats: int) -> list[str]:
    """Return the section of the report."""
    found = [measure_probe(n_features, repeats) for n_features in (50, 128, 512)]
    return [
        "## Probes: the MLP head, one core",
        "",
        "CPU time of one step of one problem: 512-256-128, batch 32, Adam, float32, seven classes. "
        f"The floor is {FLOOR} times scikit-learn.",
        "",
        *HEAD,
        *(speed.row() for speed in found),
        "",
    ]


if __name__ == "__main__":
    print("\n".join(probe_lines(repeats=5)))  # noqa: T201 - the result of a script
