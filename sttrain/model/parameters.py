"""How many numbers a model has, part by part, from its configuration alone: nothing is built."""

from sttrain.model.autoencoder import ModelConfig
from sttrain.model.pretext import Pretext


def count_parameters(
    config: ModelConfig, n_genes: int, pretext: Pretext | None = None
) -> dict[str, int]:
    """Return the trained numbers of each part of a model.

    Parameters
    ----------
    config
        Sizes.
    n_genes
        Genes of the vocabulary, K.
    pretext
        What is asked; patches by squared errors without it.

    Returns
    -------
    dict
        ``gene table``, ``encoder`` (token and depth projections, layers, final norm) and
        ``decoder`` (the way in, hidden token, layers, final norm, the way out); ``fusion`` and
        ``dispersion`` where the objective or the loss has them.
    """
    D, E = config.width, config.decoder_width
    layer = _layer(D, config.heads, config.ffn, local=config.local)
    small = _layer(E, config.decoder_heads, config.decoder_ffn, local=config.local)
    depth = 2 * D if config.library_size else 0
    asked = pretext or Pretext()
    more = {"fusion": 3 * D * D + 2 * D} if asked.objective == "slice" else {}
    more |= {"dispersion": n_genes} if asked.loss == "nb" else {}
    return {
        "gene table": n_genes * D,
        "encoder": D * D + D + depth + config.layers * layer + 2 * D,
        "decoder": D * E + E + E + config.decoder_layers * small + 2 * E + E * D + D,
    } | more


def count_numbers(config: ModelConfig, n_genes: int, pretext: Pretext | None = None) -> int:
    """Return the numbers of a model's weights file: parameters, gene means or rates, mean depth."""
    rates = n_genes if pretext is not None and pretext.counts else 0
    return sum(count_parameters(config, n_genes, pretext).values()) + n_genes + 1 + rates


def _layer(width: int, heads: int, ffn: int, *, local: bool) -> int:
    """Count a transformer layer: two norms, qkv, out, up, down, and a slope per head."""
    attention = 4 * width * width + 4 * width
    forward = 2 * width * ffn + ffn + width
    return 4 * width + attention + forward + (heads if local else 0)
