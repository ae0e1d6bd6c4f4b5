"""From mean features of spots to vectors: neighbours, slice means, components, scale, expression.

Letters: N spots of a slice, D features.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttrain.embed.embeddings import SliceEmbedding
from sttrain.embed.neighbours import averaging
from sttrain.embed.projection import principal_components
from sttrain.model.inference import InferenceConfig

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice


def refine_slice(
    features: NDArray[np.float32], whole: "WholeSlice", config: InferenceConfig
) -> NDArray[np.float32]:
    """Return what a slice alone decides of its vectors (N, D), from its features (N, D)."""
    found = features.astype(np.float64)
    if config.neighbours:
        found = averaging(whole.xy.astype(np.float64), config.neighbours) @ found
    if config.centre:
        found = found - found.mean(axis=0)
    return found.astype(np.float32)


def refine_corpus(
    slices: Mapping[str, SliceEmbedding],
    config: InferenceConfig,
    subject: str,
    expression: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, SliceEmbedding]:
    """Return what all slices together decide of their vectors.

    Parameters
    ----------
    slices
        Vectors of every slice, as :func:`refine_slice` returns them.
    config
        What is asked.
    subject
        Whose vectors they are, for the message.
    expression
        Components of expression (N, D) of every slice, to stand beside the vectors.

    Raises
    ------
    BadUsageError
        More components than spots or features.
    """
    found = {slug: part.matrix for slug, part in slices.items()}
    if config.components is not None:
        found = principal_components(found, config.components, subject)
    if config.whiten:
        found = _whitened(found, config.whiten)
    if expression is not None:
        found = _side_by_side(found, expression)
    return {slug: replace(part, matrix=found[slug]) for slug, part in slices.items()}


def _whitened(
    tables: Mapping[str, NDArray[np.float32]], power: float
) -> dict[str, NDArray[np.float32]]:
    """Return the tables (n, D) divided by the standard deviation over all rows to a power.

    A column that only rounding tells from a constant stays as it is.
    """
    sd = np.concatenate(list(tables.values())).std(axis=0, dtype=np.float64)
    sd[sd <= sd.max() * np.finfo(np.float32).eps] = 1.0
    return {slug: (table / sd**power).astype(np.float32) for slug, table in tables.items()}


def _side_by_side(
    *parts: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.float32]]:
    """Return tables beside each other, each centred and of variance 1 over all its columns."""
    even = [_evened(part) for part in parts]
    return {slug: np.concatenate([part[slug] for part in even], axis=1) for slug in even[0]}


def _evened(tables: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return the tables centred and scaled; what only rounding tells from a constant stays 0."""
    stacked = np.concatenate(list(tables.values())).astype(np.float64)
    mean, sd = stacked.mean(axis=0), np.sqrt(stacked.var(axis=0).sum())
    if sd <= np.linalg.norm(mean) * np.finfo(np.float32).eps:
        return {slug: np.zeros_like(table) for slug, table in tables.items()}
    return {slug: ((table - mean) / sd).astype(np.float32) for slug, table in tables.items()}
