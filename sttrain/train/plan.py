"""What a run will be before it begins: steps, tokens, parameters, products, memory.

Nothing is trained and no shard is read: the index says how many sites of each patch are observed,
the order says which patches meet in a batch, and what is hidden of them is a function of both.
No time is promised; that depends on a machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.cache import default_cache
from stbuild.corpus.index_cache import open_index
from stbuild.corpus.reader import Corpus
from sttrain.model.parameters import count_parameters
from sttrain.model.pretext import Objective
from sttrain.stream.order import Order, choose_order
from sttrain.stream.source import no_patches
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.costs import (
    Precision,
    StepFlops,
    StepMemory,
    StepShape,
)
from sttrain.train.objectives import (
    KINDS,
    Kind,
    MaskConfig,
    count_hidden,
    hidden_sites,
    kind_shares,
)
from sttrain.train.single_costs import unit_flops, unit_memory
from sttrain.train.slice_source import plan_views, views_of

_STEPS: Final = 1000
"""Steps of the first epoch that are looked at, evenly spaced; all where there are fewer."""


@dataclass(frozen=True, kw_only=True)
class KindPlan:
    """The steps that hide one kind of thing; means over the steps that were looked at."""

    kind: Kind
    share: float
    """Share of all steps."""
    visible: float
    """Tokens that the encoder is given in a step, padding included."""
    decoded: float
    """Tokens that the decoder is given in a step."""
    targets: float
    """Values that a step asks for, if every gene of every sample is real."""
    flops: StepFlops
    """Of the mean step, rounded."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run before it begins."""

    corpus: str
    corpus_id: str
    split: str
    objective: Objective
    n_patches: int
    """Samples of an epoch: patches, or views of whole slices under objective ``slice``."""
    n_genes: int
    """Genes of the vocabulary."""
    genes: int
    """Genes of a patch."""
    window: int
    """Side of a patch, in sites."""
    batch: int
    """Samples of a global batch."""
    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    n_ranks: int
    device: str
    precision: Precision
    parameters: dict[str, int]
    """By part."""
    kinds: tuple[KindPlan, ...]
    memory: StepMemory
    """Of one rank, at its longest step."""
    steps_looked_at: int

    @property
    def epochs(self) -> float:
        """Passes over all patches."""
        return self.steps / self.steps_per_epoch

    @property
    def samples(self) -> int:
        """Patches of the whole run, each epoch's counted."""
        whole, rest = divmod(self.steps, self.steps_per_epoch)
        return self.n_patches * whole + min(self.batch * rest, self.n_patches)

    @property
    def visible(self) -> float:
        """Tokens that the encoder is given in a mean step."""
        return sum(kind.share * kind.visible for kind in self.kinds)

    @property
    def decoded(self) -> float:
        """Tokens that the decoder is given in a mean step."""
        return sum(kind.share * kind.decoded for kind in self.kinds)

    @property
    def targets(self) -> float:
        """Values that a mean step asks for: the same for every objective, or nearly so."""
        return sum(kind.share * kind.targets for kind in self.kinds)

    @property
    def flops(self) -> float:
        """Floating-point operations of a mean step on all ranks."""
        return sum(kind.share * kind.flops.total for kind in self.kinds)


def plan_run(
    corpus: Corpus, config: RunConfig, options: FitOptions, *, n_ranks: int = 1
) -> RunPlan:
    """Plan a run.

    Parameters
    ----------
    corpus
        What is trained on.
    config
        What is trained.
    options
        Where.
    n_ranks
        Processes that share a batch; memory is that of one of them.

    Raises
    ------
    BadInputError
        A split without patches.
    BadUsageError
        No such device.
    IntegrityError
        The index is damaged.
    """
    from sttrain.train.trainer import (  # heavy, and not for the formulas
        choose_device,
        choose_precision,
    )

    document = corpus.document
    if config.split not in document.splits():
        raise no_patches(corpus, config.split)
    observed, batch, held = _samples(corpus, config, options)
    order = choose_order(held, batch=batch, seed=config.seed, group=config.grouping)
    device = choose_device(options.device)
    precision: Precision = (
        "bf16" if choose_precision(config.precision, device) == "bf16" else "fp32"
    )
    alone = config.objective == "slice"
    sites = int(observed.max()) if alone else document.config.window**2
    sizes = document.config.genes, sites
    batches = list(_observed_of_steps(observed, order))
    shares = kind_shares(config.mask)
    shapes = {
        kind: [_shape(config, kind, batch, *sizes) for batch in batches]
        for kind in KINDS
        if shares[kind]
    }
    n_genes = document.vocabulary.n_genes
    memories = [
        unit_memory(config, n_genes, _of_rank(shape, n_ranks), precision)
        for group in shapes.values()
        for shape in group
    ]
    return RunPlan(
        corpus=document.name,
        corpus_id=document.corpus_id,
        split=config.split,
        objective=config.objective,
        n_patches=len(observed),
        n_genes=n_genes,
        genes=document.config.genes,
        window=document.config.window,
        batch=batch,
        steps=config.total_steps(order.steps),
        steps_per_epoch=order.steps,
        n_ranks=n_ranks,
        device=str(device),
        precision=precision,
        parameters=count_parameters(config.model, n_genes, config.pretext),
        kinds=tuple(
            _plan_kind(config, kind, shares[kind], shapes[kind], batches) for kind in shapes
        ),
        memory=max(memories, key=lambda memory: memory.total),
        steps_looked_at=len(batches),
    )


def step_shape(
    mask: MaskConfig,
    kind: Kind,
    observed: Sequence[int] | NDArray[np.int64],
    genes: int,
    sites: int,
) -> StepShape:
    """Return the sizes of a batch under one kind of mask.

    Parameters
    ----------
    mask
        What is hidden.
    kind
        Which kind it is.
    observed
        (B,) observed sites of its patches.
    genes, sites
        M and L.
    """
    n = np.asarray(observed, np.int64)
    hidden = np.zeros_like(n)
    if kind != "element":
        hidden = np.array([hidden_sites(v, mask.site_ratio) for v in n.tolist()], np.int64)
    values = kind == "element" or mask.visible_ratio > 0
    targets = int((n if values else hidden).max())
    return StepShape(
        patches=n.size,
        genes=genes,
        sites=sites,
        visible=max(1, int((n - hidden).max())),
        observed=max(1, int(n.max())),
        targets=max(1, targets),
    )


def _observed_of_steps(observed: NDArray[np.integer], order: Order) -> Iterator[NDArray[np.int64]]:
    """Yield the observed sites of the patches of some steps of the first epoch."""
    chosen = np.unique(np.linspace(0, order.steps - 1, min(_STEPS, order.steps)).round())
    for step in chosen.astype(int).tolist():
        yield observed[order.global_batch(0, step)].astype(np.int64)


def _samples(
    corpus: Corpus, config: RunConfig, options: FitOptions
) -> tuple[NDArray[np.integer], int, list[int]]:
    """Return observed sites of an epoch's samples, a batch's size, and samples per shard."""
    index = open_index(corpus, config.split, options.cache or default_cache("train"))
    if config.objective != "slice":
        held = [shard.n_samples for shard in corpus.document.shards_of(config.split)]
        return index.observed, config.batch, held
    _, spots, views = plan_views(corpus, config.split, config.context, index)
    sites = np.repeat(spots, views)
    return sites, views_of(config.batch, len(sites), len(index)), views.tolist()


def _shape(
    config: RunConfig, kind: Kind, observed: NDArray[np.int64], genes: int, sites: int
) -> StepShape:
    if config.objective == "patch":
        return step_shape(config.mask, kind, observed, genes, sites)
    most = max(1, int(observed.max()))  # values alone are hidden, and no site
    return StepShape(
        patches=observed.size, genes=genes, sites=sites, visible=most, observed=most, targets=most
    )


def _plan_kind(
    config: RunConfig,
    kind: Kind,
    share: float,
    shapes: Sequence[StepShape],
    batches: Sequence[NDArray[np.int64]],
) -> KindPlan:
    counted = [unit_flops(config, shape) for shape in shapes]

    def mean(values: Sequence[int]) -> int:
        return round(sum(values) / len(values))

    return KindPlan(
        kind=kind,
        share=share,
        visible=sum(s.patches * s.visible for s in shapes) / len(shapes),
        decoded=sum(_decoded(config, s) for s in shapes) / len(shapes),
        targets=sum(count_hidden(config.mask, kind, b, shapes[0].genes) for b in batches)
        / len(batches),
        flops=StepFlops(
            tokens=mean([flops.tokens for flops in counted]),
            encoder=mean([flops.encoder for flops in counted]),
            decoder=mean([flops.decoder for flops in counted]),
            genes=mean([flops.genes for flops in counted]),
        ),
    )


def _decoded(config: RunConfig, shape: StepShape) -> int:
    return shape.patches * (shape.observed if config.objective == "patch" else shape.visible)


def _of_rank(shape: StepShape, n_ranks: int) -> StepShape:
    return StepShape(
        patches=-(-shape.patches // n_ranks),
        genes=shape.genes,
        sites=shape.sites,
        visible=shape.visible,
        observed=shape.observed,
        targets=shape.targets,
    )


def describe_plan(plan: RunPlan) -> str:
    """Return a plan for people."""
    total = sum(plan.parameters.values())
    parts = ", ".join(f"{name} {number:,}" for name, number in plan.parameters.items())
    ranks = f" on {plan.n_ranks} ranks" if plan.n_ranks > 1 else ""
    samples = "views of slices" if plan.objective == "slice" else "patches"
    looked = f"mean of {plan.steps_looked_at:,} of {plan.steps_per_epoch:,} steps of an epoch"
    lines = [
        f"corpus      {plan.corpus} {plan.corpus_id[:12]}, split {plan.split}: {plan.n_patches:,} "
        f"{_samples_of(plan)} and {plan.genes:,} genes, vocabulary {plan.n_genes:,}",
        f"steps       {plan.steps:,} = {plan.epochs:,.4g} epochs x {plan.steps_per_epoch:,}, batch "
        f"{plan.batch:,}{ranks}; {plan.samples:,} {samples} in all",
        f"targets     {plan.targets:,.0f} values a step under objective {plan.objective}, "
        f"{_short(plan.targets * plan.steps).rstrip()} in all",
        f"tokens      {plan.visible:,.0f} to the encoder and {plan.decoded:,.0f} to the decoder a "
        f"step ({looked}); {_short(plan.visible * plan.steps)} and "
        f"{_short(plan.decoded * plan.steps)} in all",
        f"parameters  {total:,}: {parts}",
        f"FLOPs       {_short(plan.flops)} a step, forward and backward; "
        f"{_short(plan.flops * plan.steps)} in all",
        *(_describe_kind(kind) for kind in plan.kinds),
        *_describe_memory(plan),
    ]
    return "\n".join(lines)


def _samples_of(plan: RunPlan) -> str:
    if plan.objective == "slice":
        return "views of whole slices"
    return f"patches of {plan.window} x {plan.window} sites"


def _describe_kind(plan: KindPlan) -> str:
    flops = plan.flops
    shares = ", ".join(
        f"{name} {getattr(flops, name) / flops.total:.0%}"
        for name in ("tokens", "encoder", "decoder", "genes")
    )
    return (
        f"  {plan.kind:<9} {plan.share:.0%} of steps: {plan.visible:,.0f} visible tokens, "
        f"{_short(flops.total)}FLOPs ({shares})"
    )


def _describe_memory(plan: RunPlan) -> Iterator[str]:
    memory = plan.memory
    yield (
        f"memory      about {_bytes(memory.total)} on {plan.device} in {plan.precision} at the "
        "longest step, besides the process's own:"
    )
    yield (
        f"  weights {_bytes(memory.weights)}, gradients {_bytes(memory.gradients)}, optimizer "
        f"{_bytes(memory.optimizer)}, activations {_bytes(memory.activations)}, batch "
        f"{_bytes(memory.batch)}"
    )


def _short(number: float) -> str:
    """Return a number to three digits with its prefix, such as ``1.23 T``."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def _bytes(number: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
