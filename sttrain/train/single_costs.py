"""What a step costs where sites are encoded one by one (`spot`, `multispot`, `slice`).

Products are those of a batch of B * V windows of one site each, and on top what sites learn of
others.
Letters as in :mod:`sttrain.train.costs`; C macro-domains.
"""

from dataclasses import replace

from sttrain.model.autoencoder import ModelConfig
from sttrain.model.parameters import count_numbers, count_parameters
from sttrain.model.pretext import Pretext
from sttrain.train.config import RunConfig
from sttrain.train.costs import (
    Precision,
    StepFlops,
    StepMemory,
    StepShape,
    count_flops,
    estimate_memory,
)


def unit_flops(config: RunConfig, shape: StepShape) -> StepFlops:
    """Count the matrix products of a step of any objective."""
    if config.objective == "patch":
        return count_flops(config.model, shape)
    return count_single_flops(config.model, shape, config.pretext)


def unit_memory(
    config: RunConfig, n_genes: int, shape: StepShape, precision: Precision
) -> StepMemory:
    """Estimate the memory of a step of any objective."""
    if config.objective == "patch":
        return estimate_memory(config.model, n_genes, shape, precision)
    return estimate_single_memory(config.model, n_genes, shape, precision, config.pretext)


def count_single_flops(config: ModelConfig, shape: StepShape, pretext: Pretext) -> StepFlops:
    """Count the matrix products of a step, forward and backward.

    In multiply-adds, besides those of the layers: B V V D for the means of neighbours; B V C D for
    those of macro-domains, and 3 B V D D for their fusion, which takes three times as much with
    the backward pass. Means take twice as much: nothing is learnt of their weights.

    Parameters
    ----------
    config
        Sizes of the model.
    shape
        Sizes of the batch; all observed sites are visible, and all are targets.
    pretext
        The objective.
    """
    B, V, D = shape.patches, shape.visible, config.width
    found = count_flops(config, _single(shape))
    if pretext.objective == "multispot":
        return replace(found, encoder=found.encoder + 4 * B * V * V * D)
    if pretext.objective == "slice":
        means = 4 * B * V * pretext.context.domains * D
        return replace(found, encoder=found.encoder + means + 18 * B * V * D * D)
    return found


def estimate_single_memory(
    config: ModelConfig, n_genes: int, shape: StepShape, precision: Precision, pretext: Pretext
) -> StepMemory:
    """Estimate the memory of a step at its greatest, when the backward pass begins.

    As :func:`.costs.estimate_memory` does for windows of one site; but the sites of a patch
    share the rows of the gene table, a layer keeps neither query nor key nor a mixture of values
    (3 D or 3 E a site), and weights of neighbours (B V V), or inputs of the fusion (6 B V D), come
    on top.
    """
    B, M, V, D = shape.patches, shape.genes, shape.visible, config.width
    b = 2 if precision == "bf16" else 4
    found = estimate_memory(config, n_genes, _single(shape), precision)
    context = {"spot": 0, "multispot": V * V, "slice": 6 * V * D}.get(pretext.objective, 0)
    needless = 3 * (config.layers * D + config.decoder_layers * config.decoder_width)
    n_parameters = sum(count_parameters(config, n_genes, pretext).values())
    own = n_parameters - n_genes * D
    return replace(
        found,
        weights=4 * count_numbers(config, n_genes, pretext),
        gradients=4 * own + 8 * min(n_genes, B * M) * D,
        optimizer=8 * n_parameters,
        activations=found.activations - B * b * ((V - 1) * M * D + V * needless - context),
        batch=B * shape.sites * (6 * M + 8),
    )


def _single(shape: StepShape) -> StepShape:
    """Return the same sites as windows of one site each."""
    n = shape.patches * shape.visible
    return StepShape(patches=n, genes=shape.genes, sites=1, visible=1, observed=1, targets=1)
