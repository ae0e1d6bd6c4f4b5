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
from tests.benchmarks.bench import Bench
from tests.benchmarks.timing import times_as_fast

FLOOR = 1.5
"""Times scikit-learn per CPU-second that the batched problem must reach."""
HEAD = [
    "| training spots x features | problems | scikit-learn | ours, one by one | ours, together | "
    "times scikit-learn |",
    "|---|---:|---:|---:|---:|---:|",
]


@dataclass(frozen=True)
class ProbeSpeed:
    """CPU milliseconds per step of one problem, of every round."""

    n_spots: int
    n_features: int
    n_problems: int
    sklearn: list[float]
    single: list[float]
    batched: list[float]

    @property
    def ratio(self) -> float:
        """How many steps ours takes in the time of one of scikit-learn's, in the same round."""
        return median(s / b for s, b in zip(self.sklearn, self.batched, strict=True))

    def row(self) -> str:
        times = (f"{median(t):.2f} ms" for t in (self.sklearn, self.single, self.batched))
        ratio = times_as_fast(self.batched, self.sklearn, 1)
        size = f"{self.n_spots} x {self.n_features} | {self.n_problems}"
        return f"| {size} | {' | '.join(times)} | {ratio} |"


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
    return ProbeSpeed(n_spots, n_features, n_problems, *times)


def lines(bench: Bench) -> list[str]:
    """Measure three widths and return the table."""
    found = [measure_probe(n_features, bench.repeats) for n_features in (50, 128, 512)]
    what = "one step of one problem: 512-256-128, batch 32, Adam, float32, seven classes"
    floor = f"The floor is {FLOOR} times scikit-learn"
    return [f"CPU time of {what}. {floor}.", "", *HEAD, *(speed.row() for speed in found)]
