"""Where a training step spends its time, by kind of work, and what share of the peak is left.

``python -m tests.benchmarks.profile_step CORPUS``: torch.profiler over some equal steps on one
thread, in turns with steps that are not profiled. The profiler reads a clock on the wall, which
also runs while other work has the core; so shares are its, summed over the steps, and seconds are
the CPU time of the other steps. The products' rate is beside that of the fastest plain product of
the same turns (:func:`.bench_step.peak_rate`).
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from stbuild.corpus.reader import open_corpus
from sttrain.stream.batches import Batch, PatchSource, PatchStream, StreamState
from sttrain.stream.order import Order
from sttrain.train.allocator import keep_freed_memory
from sttrain.train.config import RunConfig, load_config
from sttrain.train.objectives import KINDS, Kind
from sttrain.train.trainer import Trainer
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_step import RECIPE, make_trainer, peak_rate, step_flops
from tests.benchmarks.measure import describe_machine
from tests.benchmarks.timing import spread

STEPS = 3
"""Turns of each kind."""
PRODUCTS: Final = "products of layers and genes"
ATTENTION_PRODUCTS: Final = "products of attention"
ATTENTION: Final = "attention's own passes: distances, softmax, sums, copies"
OPTIMIZER: Final = "optimizer, clipping, gradients set to 0"
GENES: Final = "gene rows: gathered, and their gradient added up"
PREPARE: Final = "masks drawn"
REST: Final = "the rest: Python, autograd, views, allocation"
_MATMUL: Final = frozenset({"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"})
_KINDS: Final = {
    "layer norms": frozenset({"native_layer_norm", "native_layer_norm_backward"}),
    "GELU": frozenset({"gelu", "gelu_backward"}),
    "copies": frozenset({"copy_", "clone", "cat", "_to_copy", "contiguous", "stack"}),
    "sites picked and put back": frozenset(
        {"gather", "scatter", "scatter_add", "scatter_add_", "index", "index_put_", "index_add_"}
    ),
    "sums, and element-wise passes": frozenset(
        {
            "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "sum", "mean", "pow",
            "where", "fill_", "zero_", "neg", "square", "masked_fill", "masked_fill_", "sqrt",
            "addcmul_", "abs", "lt", "eq", "gt", "ge", "bitwise_and", "logical_and",
        }
    ),
}  # fmt: skip
ROWS: Final = (
    PRODUCTS, ATTENTION_PRODUCTS, ATTENTION, *_KINDS, OPTIMIZER, GENES, PREPARE, REST,
)  # fmt: skip
_RANGES: Final = {"range: optimizer": OPTIMIZER, "range: genes": GENES, "range: prepare": PREPARE}


@dataclass(frozen=True)
class StepProfile:
    """Seconds of a step by kind of work, and what it had to compute."""

    kind: Kind
    seconds: dict[str, float]
    flops: float
    peak: float
    """Operations a second of the fastest product."""
    cpu: Sequence[float]
    """CPU seconds of the steps that were not profiled."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.seconds.values())

    def shares(self) -> list[float]:
        """Return the share of the peak of every step that was not profiled."""
        return [self.flops / seconds / self.peak for seconds in self.cpu]

    @property
    def products(self) -> float:
        """Seconds in matrix products."""
        return self.seconds.get(PRODUCTS, 0.0) + self.seconds.get(ATTENTION_PRODUCTS, 0.0)

    def floor(self) -> float:
        """Return the share of the peak that it would reach if all but products were free."""
        return self.flops / self.products / self.peak


def classify(names: Sequence[str]) -> str:
    """Return the kind of work of an operator.

    Parameters
    ----------
    names
        Its own name, then those of all that it runs in, from the inside out.
    """
    own = names[0].removeprefix("aten::")
    if any(name.startswith("sttrain::attend") for name in names):
        return ATTENTION_PRODUCTS if own in _MATMUL else ATTENTION
    for name in names:
        if name in _RANGES:
            return _RANGES[name]
        if name.startswith("Optimizer."):
            return OPTIMIZER
    if own in _MATMUL:
        return PRODUCTS
    if own.startswith("embedding"):
        return GENES
    return next((kind for kind, members in _KINDS.items() if own in members), REST)


def _ranged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def inside(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return inside


def mark(trainer: Trainer) -> None:
    """Name the parts of a step that operators alone do not tell apart."""
    for owner, attribute, name in (
        (trainer, "_clip", "range: optimizer"),
        (trainer.table, "step", "range: optimizer"),
        (trainer.optimizer, "zero_grad", "range: optimizer"),
        (trainer, "_lend", "range: genes"),
        (trainer.asker, "prepare", "range: prepare"),
    ):
        setattr(owner, attribute, _ranged(name, getattr(owner, attribute)))


def _operators(events: Iterable[Any]) -> list[tuple[tuple[str, ...], float]]:
    """Return name with ancestors, and own microseconds, of every operator."""
    found = []
    for event in events:
        names, at = [event.name], event.cpu_parent
        while at is not None:
            names.append(at.name)
            at = at.cpu_parent
        found.append((tuple(names), float(event.self_cpu_time_total)))
    return found


def profile_kind(
    batch: Batch, n_genes: int, config: RunConfig, kind: Kind, steps: int = STEPS
) -> StepProfile:
    """Take steps under one kind of mask, profiled and not, in turns."""
    changed = config.model_copy(
        update={"mask": config.mask.model_copy(update={"kind": kind}), "precision": "fp32"}
    )
    trainer = make_trainer(changed, n_genes)
    mark(trainer)
    trainer.step(batch)
    spent: dict[str, float] = defaultdict(float)
    cpu, peak = [], 0.0
    for _ in range(steps):
        start = time.process_time()
        trainer.step(batch)
        cpu.append(time.process_time() - start)
        with profile(activities=[ProfilerActivity.CPU]) as found, record_function("step"):
            trainer.step(batch)
        for names, own in _operators(found.events()):
            spent[classify(names)] += own
        peak = max(peak, peak_rate())
    scale = median(cpu) / sum(spent.values())
    seconds = {name: own * scale for name, own in spent.items()}
    return StepProfile(kind, seconds, step_flops(batch, trainer), peak, cpu)


def profile_rows(profiles: Sequence[StepProfile]) -> list[str]:
    """Return the table."""
    head = "| | " + " | ".join(f"{found.kind} masks" for found in profiles) + " |"
    rows = [head, "|---|" + "---:|" * len(profiles)]
    for name in ROWS:
        shares = [found.seconds.get(name, 0.0) / found.total for found in profiles]
        rows.append(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    told = {
        "a step, CPU s": [f"{found.total:.2f}" for found in profiles],
        "its products, GFLOP": [f"{found.flops / 1e9:.0f}" for found in profiles],
        "the fastest plain product, GFLOP/s": [f"{found.peak / 1e9:.0f}" for found in profiles],
        "share of that peak": [spread(found.shares()) for found in profiles],
        "share of it that the products alone run at": [
            f"{found.floor():.2f}" for found in profiles
        ],
    }
    return rows + [f"| {name} | {' | '.join(cells)} |" for name, cells in told.items()]


def step_profiles(root: Path, recipe: Path = RECIPE, steps: int = STEPS) -> list[StepProfile]:
    """Profile a step of a recipe over a corpus under each kind of mask."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config = load_config(recipe, {})
    source = PatchSource(open_corpus(root), config.split)
    order = Order(n_samples=len(source), batch=config.batch, seed=config.seed)
    batch = PatchStream(source, order).read(StreamState())
    return [profile_kind(batch, source.n_genes, config, kind, steps) for kind in KINDS]


def lines(bench: Bench) -> list[str]:
    """Profile the recipe and return the table."""
    root = bench.corpus or bench.training("zstd").root
    document = open_corpus(root).document
    corpus = f"{len(document.slices)} slices, {document.vocabulary.n_genes:,} genes"
    what = f"{RECIPE.name}, float32, one thread; {STEPS} turns; corpus of {corpus}."
    return [what, "", *profile_rows(step_profiles(root))]


def main() -> None:
    """Profile one corpus and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="a corpus of 16 x 16 sites x 512 genes")
    parser.add_argument("-c", "--config", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    rows = profile_rows(step_profiles(options.corpus, options.config, options.steps))
    print("\n".join([describe_machine(), "", *rows]))  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()
