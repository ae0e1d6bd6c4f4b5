"""The training step: patches a second of one core, and what share of the processor's products.

The peer is :mod:`tests.benchmarks.plain`. Both take the same patches under the same masks, in
turns in one process, and start from integers. The peak is the fastest of some plain matrix
products, measured in the same turns.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.model.autoencoder import MaskedAutoencoder, normalise
from sttrain.stream.batches import Batch, PatchSource, PatchStream, StreamState
from sttrain.stream.order import Order
from sttrain.train.allocator import keep_freed_memory
from sttrain.train.config import RunConfig, load_config
from sttrain.train.costs import StepShape, count_flops
from sttrain.train.objectives import KINDS, Kind, kind_shares
from sttrain.train.statistics import as_tensors
from sttrain.train.trainer import Trainer, choose_precision
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import ROOT
from tests.benchmarks.plain import PlainAutoencoder, plain_step
from tests.benchmarks.timing import spread, times_as_fast

HEAD = [
    "| masks of a step | peer, patches/s | ours float32 | times peer | share of peak | ours bf16 | "
    "times peer |",
    "|---|---|---|---|---|---|---|",
]
_PRODUCTS = ((1024, 1024, 1024), (2048, 256, 1024), (2048, 256, 768), (2048, 1024, 256))
CPU = torch.device("cpu")
RECIPE = ROOT / "manifests" / "runs" / "small.toml"


@dataclass(frozen=True)
class StepResult:
    """CPU seconds of a step of each rival, turn by turn."""

    kind: str
    patches: int
    flops: float
    peer: list[float]
    full: list[float]
    half: list[float]
    """None where the processor has no instructions for bf16."""
    peak: list[float]
    """Floating-point operations a second of the fastest product."""

    def row(self) -> str:
        """Return the line of the table."""
        share = [self.flops / t / peak for t, peak in zip(self.full, self.peak, strict=True)]
        cells = [
            f"{self.patches / median(self.peer):.1f}",
            f"{self.patches / median(self.full):.1f}",
        ]
        cells += [times_as_fast(self.full, self.peer), spread(share)]
        if self.half:
            cells += [
                f"{self.patches / median(self.half):.1f}",
                times_as_fast(self.half, self.peer),
            ]
        else:
            cells += ["no bf16 here", "-"]
        return f"| {self.kind} | {' | '.join(cells)} |"


def measure_step(
    corpus: Corpus, config: RunConfig, repeats: int, kinds: Sequence[Kind] = KINDS
) -> list[StepResult]:
    """Take `repeats` steps of every rival under every kind of mask, in turns.

    The last result is the mean step of the recipe's mix of masks.
    """
    source = PatchSource(corpus, config.split)
    order = Order(n_samples=len(source), batch=config.batch, seed=config.seed)
    batch = PatchStream(source, order).read(StreamState())
    results = [_measure_kind(batch, source.n_genes, config, kind, repeats) for kind in kinds]
    shares = kind_shares(config.mask)
    if len(results) > 1:
        results.append(_mix(results, [shares[kind] for kind in kinds]))
    return results


def _mix(results: Sequence[StepResult], shares: Sequence[float]) -> StepResult:
    def mean(name: str) -> list[float]:
        turns = zip(*(getattr(result, name) for result in results), strict=True)
        return [sum(s * t for s, t in zip(shares, turn, strict=True)) for turn in turns]

    flops = sum(s * result.flops for s, result in zip(shares, results, strict=True))
    text = f"the recipe's mix ({', '.join(f'{share:.0%}' for share in shares)})"
    peak = [max(turn) for turn in zip(*(r.peak for r in results), strict=True)]
    return StepResult(
        text, results[0].patches, flops, mean("peer"), mean("full"), mean("half"), peak
    )


def _measure_kind(
    batch: Batch, n_genes: int, config: RunConfig, kind: Kind, repeats: int
) -> StepResult:
    mask = config.mask.model_copy(update={"kind": kind})
    rivals: list[Callable[[], object]] = [_peer(batch, n_genes, config, kind)]
    able = choose_precision("auto", CPU) == "bf16"
    trainers = []
    for precision in ("fp32", *(["bf16"] if able else [])):
        changed = config.model_copy(update={"mask": mask, "precision": precision})
        trainers.append(make_trainer(changed, n_genes))
        rivals.append(partial(trainers[-1].step, batch))
    times: list[list[float]] = [[] for _ in rivals]
    peak = []
    for turn in range(repeats + 1):  # the first one warms up
        found = [_seconds(rival) for rival in rivals]
        fastest = peak_rate()
        if turn:
            peak.append(fastest)
            for kept, seconds in zip(times, found, strict=True):
                kept.append(seconds)
    flops = step_flops(batch, trainers[0])
    return StepResult(
        kind, len(batch.keys), flops, times[0], times[1], times[2] if able else [], peak
    )


def step_flops(batch: Batch, trainer: Trainer) -> int:
    """Return the operations of the matrix products that the model needs for a step."""
    task = trainer.asker.prepare(batch)
    places = task.hidden.located(torch.from_numpy(batch.totals > 0).flatten(1)).places
    if places is None:
        msg = "no site of the batch is observed; choose another corpus"
        raise ValueError(msg)
    shape = StepShape(
        patches=len(batch.keys), genes=batch.genes.shape[1], sites=batch.totals[0].size,
        visible=places.visible.shape[1], observed=places.observed.shape[1],
        targets=places.targets.shape[1],
    )  # fmt: skip
    return count_flops(trainer.config.model, shape).total


def make_trainer(config: RunConfig, n_genes: int) -> Trainer:
    """Return a trainer of an untrained model on this core."""
    model = MaskedAutoencoder(config.model, n_genes, torch.Generator().manual_seed(0))
    return Trainer(config=config, model=model, device=CPU, total=10**6)


def _peer(batch: Batch, n_genes: int, config: RunConfig, kind: Kind) -> Callable[[], object]:
    changed = config.model_copy(update={"mask": config.mask.model_copy(update={"kind": kind})})
    hidden = make_trainer(changed, n_genes).asker.prepare(batch).hidden
    model = PlainAutoencoder(config.model, n_genes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr)

    def step() -> float:
        sites = normalise(*as_tensors(batch.counts, batch.genes, batch.totals, CPU))
        return plain_step(model, optimizer, sites, hidden)

    return step


def _seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def peak_rate() -> float:
    """Return the operations a second of the fastest float32 product."""
    best = 0.0
    for n, k, m in _PRODUCTS:
        a, b = torch.ones(n, k), torch.ones(m, k)
        for _ in range(6):
            best = max(best, 2 * n * k * m / _seconds(partial(torch.mm, a, b.T)))
    return best


def step_lines(corpus: Corpus, recipe: Path, repeats: int) -> list[str]:
    """Measure a recipe, with and without its distances, and return the lines of the report."""
    torch.set_num_threads(1)
    keep_freed_memory()  # for the peer, too
    config, lines = load_config(recipe, {}), []
    plainer = config.model.model_copy(update={"local": False, "position": True})
    for what, model in (
        ("attention falls with distance by learnt slopes, as in the recipe", config.model),
        ("a code of positions instead, so that PyTorch's fused attention serves the peer", plainer),
    ):
        results = measure_step(corpus, config.model_copy(update={"model": model}), repeats)
        peak = median([peak for result in results for peak in result.peak])
        head = f"{recipe.name}, batch {config.batch}; {what}."
        fastest = f"The fastest float32 product ran at {peak / 1e9:.0f} GFLOP/s."
        lines += [f"{head} {fastest}", "", *HEAD, *(r.row() for r in results), ""]
    return lines


def lines(bench: Bench) -> list[str]:
    """Measure the recommended recipe and return the tables."""
    corpus = bench.training("zstd") if bench.corpus is None else open_corpus(bench.corpus)
    document = corpus.document
    what = f"{len(document.slices)} slices, {document.vocabulary.n_genes:,} genes"
    return [f"Corpus of {what}.", "", *step_lines(corpus, RECIPE, bench.repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="a corpus of 16 x 16 sites x 512 genes")
    parser.add_argument("-c", "--config", type=Path, default=RECIPE)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lines = step_lines(open_corpus(options.corpus), options.config, options.repeats)
    print("\n".join(lines))  # noqa: T201 - the result of a script


if __name__ == "__main__":
    main()
