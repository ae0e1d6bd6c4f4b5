"""From the counts of a spot to scGPT's tokens: quantile bins, and a random part of too many.

Both draws are keyed by seed and barcode, so that a spot has the same tokens in any batch, order
and slice. Recipe: ``scgpt/preprocess.py`` (``binning``) and ``scgpt/data_collator.py`` of
bowang-lab/scGPT, which draw from global generators. Letters: n genes of a spot, B batch, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_BINS: Final = 51
"""Bins of a value; bin 0 is for zeros, which are no tokens."""
_EDGES: Final = np.linspace(0, 1, N_BINS - 1)
"""Quantiles of the edges between bins."""


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Tokens of some spots; position 0 is ``<cls>``, short spots are padded at the end."""

    genes: NDArray[np.int64]
    """(B, T) rows of the model's gene table."""
    values: NDArray[np.float32]
    """(B, T) bins 1 to 50; the padding value at ``<cls>`` and padding."""
    real: NDArray[np.bool_]
    """(B, T) whether a position is a token and no padding."""


def draw_uniforms(purpose: str, seed: int, barcode: str, n: int) -> NDArray[np.float64]:
    """Return `n` uniform numbers in [0, 1) that only the arguments decide.

    Parameters
    ----------
    purpose
        What they are for; two purposes have nothing in common.
    seed
        Seed of the embedding.
    barcode
        Barcode of the spot.
    n
        How many; the first of them do not depend on it.
    """
    key = sha256(f"{purpose}\0{seed}\0{barcode}".encode()).digest()
    stream = np.random.Philox(key=np.frombuffer(key[:16], "<u8"))
    # Raw words: NumPy promises their values, not those of a Generator's methods.
    words = stream.random_raw(n) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def bin_values(values: NDArray[np.float32], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin 1 to 50 of every value by the quantiles of all of them.

    A value that equals several edges gets one of the bins between them at random.

    Parameters
    ----------
    values
        (n,) above 0, n at least 1.
    uniforms
        (n,) in [0, 1), for the ties.
    """
    edges = np.quantile(values, _EDGES)
    highest = np.digitize(values, edges)
    lowest = np.digitize(values, edges, right=True)
    return np.ceil(uniforms * (lowest - highest) + highest).astype(np.int64)


def choose_tokens(uniforms: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Return the positions, ascending, of `n` numbers chosen at random, or of all where fewer."""
    return np.sort(np.argsort(uniforms, kind="stable")[:n])


def tokenize_spot(
    genes: NDArray[np.int64],
    values: NDArray[np.float32],
    barcode: str,
    *,
    seed: int,
    max_length: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the genes and bins of one spot, without ``<cls>``.

    All values are binned before a part of them is chosen, as upstream does.

    Parameters
    ----------
    genes
        (n,) rows of the model's gene table.
    values
        (n,) values above 0.
    barcode
        Keys the draws together with `seed`.
    seed
        Seed of the embedding.
    max_length
        Most tokens with ``<cls>``; a random part of more is kept.
    """
    if not genes.size:
        return genes, np.empty(0, np.int64)
    bins = bin_values(values, draw_uniforms("scgpt-ties", seed, barcode, genes.size))
    if genes.size < max_length:
        return genes, bins
    chosen = choose_tokens(
        draw_uniforms("scgpt-subsample", seed, barcode, genes.size), max_length - 1
    )
    return genes[chosen], bins[chosen]


def pad_tokens(
    spots: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    cls_token: int,
    pad_token: int,
    pad_value: float,
) -> TokenBatch:
    """Put ``<cls>`` before each spot and pad all to the longest."""
    T = 1 + max(genes.size for genes, _ in spots)
    genes = np.full((len(spots), T), pad_token, np.int64)
    values = np.full((len(spots), T), pad_value, np.float32)
    genes[:, 0] = cls_token
    lengths = np.array([1 + found.size for found, _ in spots])
    for row, (found, bins) in enumerate(spots):
        genes[row, 1 : lengths[row]] = found
        values[row, 1 : lengths[row]] = bins
    return TokenBatch(genes=genes, values=values, real=np.arange(T) < lengths[:, None])
