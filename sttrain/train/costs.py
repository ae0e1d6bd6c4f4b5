"""What a training step costs: multiplications and memory, by formula, from sizes alone.

Letters: B patches of a batch, M genes of a patch, L sites of a window, V visible tokens (the most
of any patch of the batch: a batch is as long as its longest patch), O observed sites and T sites
with targets (the most likewise), D and E widths of encoder and decoder, F and G hidden widths of
their feed-forward layers, H heads, N layers.
"""

from dataclasses import dataclass
from typing import Literal

from sttrain.model.attention import KEPT
from sttrain.model.autoencoder import ModelConfig
from sttrain.model.parameters import count_numbers, count_parameters

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """The sizes of one batch on one rank."""

    patches: int
    """B."""
    genes: int
    """M."""
    sites: int
    """L."""
    visible: int
    """V."""
    observed: int
    """O."""
    targets: int
    """T."""


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Floating-point operations of one step; a multiplication and an addition are two."""

    tokens: int
    encoder: int
    decoder: int
    genes: int
    """The predictions: the gene table times the decoder's features."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.tokens + self.encoder + self.decoder + self.genes


def count_flops(config: ModelConfig, shape: StepShape) -> StepFlops:
    """Count the matrix products of a step, forward and backward.

    Forward, in multiply-adds:

    - tokens: B V M D for the mixture over genes, B V D D for its projection, B V D for the depth;
    - encoder, per layer: 4 B V D D (query, key, value, out), 2 B V V D (scores, mixture) and
      2 B V D F (feed-forward);
    - decoder: B V D E on the way in; the same of O, E and G per layer, the last of which makes
      outputs for T sites alone; B T E D on the way out;
    - genes: B M D T.

    Backward takes twice as much, one product for each operand; the counts and the depth want no
    gradient, so that their products take it once. Norms, softmax, sums and the optimizer are left
    out: they are few beside the products, though not always quick.

    Parameters
    ----------
    config
        Sizes of the model.
    shape
        Sizes of the batch.
    """
    B, M, V, T = shape.patches, shape.genes, shape.visible, shape.targets
    D, E = config.width, config.decoder_width
    depth = B * V * D if config.library_size else 0
    encoder = B * _layer(V, V, D, config.ffn) * config.layers
    decoder = B * _layer(shape.observed, shape.observed, E, config.decoder_ffn)
    decoder *= config.decoder_layers - 1
    decoder += B * _layer(T, shape.observed, E, config.decoder_ffn)
    around = B * V * D * E + B * T * E * D
    return StepFlops(
        tokens=2 * (2 * (B * V * M * D + depth) + 3 * B * V * D * D),
        encoder=6 * encoder,
        decoder=6 * (decoder + around),
        genes=6 * B * M * D * T,
    )


def _layer(queries: int, keys: int, width: int, ffn: int) -> int:
    """Return the multiply-adds of a transformer layer for one patch, forward."""
    own = (
        queries * width * (2 * width + 2 * ffn)
    )  # query (or value, of one token), out, feed-forward
    if keys == 1:
        return own  # all attention goes to the only token
    return own + 2 * keys * width * width + 2 * queries * keys * width


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on the device of one rank; the interpreter and PyTorch itself come on top."""

    weights: int
    """Float32, with the gene means."""
    gradients: int
    """Float32, as many as parameters; of the gene table only the rows of a batch, and a copy."""
    optimizer: int
    """Two running means per parameter, float32."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    batch: int
    """The patches, as integers and normalised."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.batch


def estimate_memory(
    config: ModelConfig, n_genes: int, shape: StepShape, precision: Precision
) -> StepMemory:
    """Estimate the memory of a step at its greatest, when the backward pass begins.

    An activation takes b = 4 bytes, or 2 under bf16. Kept are:

    - per encoder layer and token: 8 D (norms in and out, query, key, value, mixture, both residual
      sums; with `position` sums and norms in float32) and 2 F (feed-forward before and after its
      bend);
    - per decoder layer and site: the same of E and G, both residual sums in float32; the last layer
      has only 4 E (before it, its norm, key and value) for sites that are no targets;
    - per layer b H for each of the V V, O O or T O pairs, where these weights are few enough to be
      kept (:data:`sttrain.model.attention.KEPT`);
    - with `local`, once, 4 bytes for each of the V V, O O and T O distances;
    - once: 4 b B V D and 4 b B L E around the layers; per gene b (V + D + T) for the mixture, the
      table's rows and the features, and 5 T for errors and what counts of them;
    - under bf16, a copy of the weights in 2 bytes.

    What lives only for a moment is left out: PyTorch's own count of its memory is up to a quarter
    more. A process holds more again, for its libraries and for memory that was freed and not given
    back (measured at the default sizes on a CPU: 1.1 and 2.2 GiB where 0.6 and 1.5 are estimated).

    Parameters
    ----------
    config
        Sizes of the model.
    n_genes
        Genes of the vocabulary.
    shape
        Sizes of the batch.
    precision
        Type of the large products.
    """
    B, M, L, V, T = shape.patches, shape.genes, shape.sites, shape.visible, shape.targets
    O, D, E = shape.observed, config.width, config.decoder_width  # noqa: E741 - the legend's
    b = 2 if precision == "bf16" else 4
    n_parameters = sum(count_parameters(config, n_genes).values())
    per_token = b * (8 * D + 2 * config.ffn) + config.position * (4 - b) * 4 * D
    per_key, per_query = (4 + 3 * b) * E, (4 + 3 * b) * E + 2 * b * config.decoder_ffn
    decoder = (config.decoder_layers - 1) * O * (per_key + per_query) + O * per_key + T * per_query
    apart = 4 * config.local * (V * V + O * O + T * O * (T < O))
    weights = _weights(B, config.heads, V, V) * config.layers
    weights += _weights(B, config.decoder_heads, O, O) * (config.decoder_layers - 1)
    weights += _weights(B, config.decoder_heads, T, O)
    around = 4 * b * (V * D + L * E) + M * (b * (V + D + T) + 5 * T)
    activations = B * (config.layers * V * per_token + decoder + apart + around) + b * weights
    copies = 2 * (n_parameters - n_genes * D) if precision == "bf16" else 0
    return StepMemory(
        weights=4 * count_numbers(config, n_genes),
        gradients=4 * (n_parameters - n_genes * D) + 8 * min(n_genes, B * M) * D,
        optimizer=8 * n_parameters,
        activations=activations + copies,
        # Signed 16-bit counts, float32 values, and the library sizes as 64-bit integers.
        batch=B * L * (6 * M + 8),
    )


def _weights(patches: int, heads: int, queries: int, keys: int) -> int:
    """Return the attention weights of a layer that are kept for the backward pass."""
    number = patches * heads * queries * keys
    return number if number <= KEPT else 0
