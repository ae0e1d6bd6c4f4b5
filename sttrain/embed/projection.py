"""Principal components without labels and without chance: exact, with fixed signs.

Letters: N spots of all slices, G columns, D components.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sttrain.errors import BadUsageError, Problem

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Table = csr_array | NDArray[np.float32]

_EXACT_LIMIT: Final = 4096
"""Up to so many spots or columns the components come from an exact symmetric eigenproblem."""
_CHUNK: Final = 1024
"""Spots or columns that are held in float64 at a time."""


def principal_components(
    tables: "Mapping[str, Table]", n_components: int, subject: str
) -> dict[str, NDArray[np.float32]]:
    """Return the scores of all spots on their first principal components.

    Columns are centred over all spots of all slices together and not scaled. The sign of a
    component is that of its largest loading (the first of several), so that a rerun, another
    solver or another machine does not mirror it.

    Parameters
    ----------
    tables
        (n, G) values of each slice, sparse or dense.
    n_components
        D.
    subject
        What is projected, for the message.

    Returns
    -------
    dict
        (n, D) float32 of each slice.

    Raises
    ------
    BadUsageError
        More components than spots or columns.
    """
    stacked = _stack(tables)
    if problem := refuse_components(n_components, stacked.shape, subject):
        raise BadUsageError(problem)
    exact = _is_exact(stacked.shape)
    scores = _exact_scores(stacked, n_components) if exact else _lanczos(stacked, n_components)
    bounds = np.cumsum([0, *(table.shape[0] for table in tables.values())]).tolist()
    return {
        slug: np.ascontiguousarray(scores[start:stop], np.float32)
        for slug, (start, stop) in zip(tables, pairwise(bounds), strict=True)
    }


def refuse_components(n_components: int, shape: tuple[int, ...], subject: str) -> Problem | None:
    """Return why a table of N spots and G columns does not have D components, if it does not."""
    n_spots, n_columns = shape
    limit = most_components(shape)
    if n_components <= limit:
        return None
    return Problem(
        code="V06",
        subject=subject,
        what=f"{n_components} components of {n_spots:,} spots and {n_columns:,} columns",
        fix=f"ask for at most {limit}, such as pca{min(10, limit)}",
    )


def most_components(shape: tuple[int, ...]) -> int:
    """Return how many components a table of N spots and G columns has."""
    # An exact solver takes min(N, G) of them; the iterative one has to leave one out.
    return min(shape) - (not _is_exact(shape))


def _is_exact(shape: tuple[int, ...]) -> bool:
    return min(shape) <= _EXACT_LIMIT


def _stack(tables: "Mapping[str, Table]") -> NDArray[np.float32]:
    return np.concatenate(
        [
            table if isinstance(table, np.ndarray) else table.toarray().astype(np.float32)
            for table in tables.values()
        ]
    )


def _exact_scores(stacked: NDArray[np.float32], n_components: int) -> NDArray[np.float64]:
    """Return (N, D) scores through the smaller of the G x G and the N x N products, in float64."""
    from scipy.linalg import eigh

    n_spots, n_columns = stacked.shape
    mean = stacked.mean(axis=0, dtype=np.float64)
    by_columns = n_columns <= n_spots
    size = n_columns if by_columns else n_spots
    product = np.zeros((size, size))
    if by_columns:
        for start in range(0, n_spots, _CHUNK):
            part = stacked[start : start + _CHUNK] - mean
            product += part.T @ part
    else:
        for start in range(0, n_columns, _CHUNK):
            part = stacked[:, start : start + _CHUNK] - mean[start : start + _CHUNK]
            product += part @ part.T
    values, vectors = eigh(product, subset_by_index=(size - n_components, size - 1))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if by_columns:
        scores = [
            (stacked[start : start + _CHUNK] - mean) @ vectors
            for start in range(0, n_spots, _CHUNK)
        ]
        return np.asarray(np.concatenate(scores) * _signs(vectors))
    loadings = np.concatenate(
        [
            (stacked[:, start : start + _CHUNK] - mean[start : start + _CHUNK]).T @ vectors
            for start in range(0, n_columns, _CHUNK)
        ]
    )
    return np.asarray(vectors * np.sqrt(values) * _signs(loadings))


def _lanczos(stacked: NDArray[np.float32], n_components: int) -> NDArray[np.float64]:
    """Return (N, D) scores of a large table, by Lanczos steps from a fixed start, in float64."""
    from sklearn.decomposition import PCA

    model = PCA(n_components, svd_solver="arpack", random_state=0)
    scores = model.fit_transform(stacked.astype(np.float64))
    return np.asarray(scores * _signs(model.components_.T))


def _signs(loadings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (D,) +1 or -1, so that the largest of the loadings (G, D) becomes positive.

    Loadings that agree to a millionth tie, and the first of them decides.
    """
    size = np.abs(loadings)
    first = np.argmax(size >= size.max(axis=0) * (1 - 1e-6), axis=0)
    return np.where(loadings[first, np.arange(loadings.shape[1])] < 0, -1.0, 1.0)
