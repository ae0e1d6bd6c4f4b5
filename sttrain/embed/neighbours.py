"""Physical neighbours of spots: who they are, their mean and how it changes around a spot.

Nothing here crosses slices. Letters: N spots of a slice, G genes, K neighbours.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

_MARGIN: Final = 24
"""Neighbours asked for beyond K, so that ties at the K-th distance are broken by rule."""


def nearest_neighbours(xy: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return every spot and its K nearest others by physical distance.

    Distances that agree to a millionth of the typical spacing tie; ties go to the spot that
    comes first in grid order, so that the answer does not depend on the search tree.

    Parameters
    ----------
    xy
        (N, 2) positions in any one unit.
    k
        Neighbours beside the spot itself; all there are in a smaller slice.

    Returns
    -------
    numpy.ndarray
        (N, min(K + 1, N)) int64 indices: the spot itself, then the nearest first.
    """
    own = np.arange(xy.shape[0])[:, None]
    near = nearest_among(xy, xy, k + 1)
    # Others at the same place may stand before the spot, or leave no room for it.
    is_own, last = near == own, near.shape[1] - 1
    left_out = np.where(is_own.any(axis=1), is_own.argmax(axis=1), last)
    others = near[np.arange(last + 1) != left_out[:, None]].reshape(len(near), last)
    return np.concatenate([own, others], axis=1)


def nearest_among(
    xy: NDArray[np.float64], others: NDArray[np.float64], n: int
) -> NDArray[np.int64]:
    """Return the `n` nearest of some positions (M, 2) for every position (N, 2).

    Ties are broken as in `nearest_neighbours`.

    Returns
    -------
    numpy.ndarray
        (N, min(n, M)) int64 indices into `others`, nearest first.
    """
    wanted = min(n, others.shape[0])
    asked = min(wanted + _MARGIN, others.shape[0])
    tree = cKDTree(others)
    # A list of ranks keeps the answer two-dimensional when only one neighbour is asked for.
    answer = tree.query(xy, k=np.arange(1, asked + 1))
    distances, found = np.asarray(answer[0], np.float64), np.asarray(answer[1], np.int64)
    rounded = np.round(distances / (_spacing(tree) * 1e-6 or 1.0))
    order = np.lexsort((found, rounded), axis=1)[:, :wanted]
    return np.take_along_axis(found, order, axis=1)


def _spacing(tree: cKDTree) -> float:
    """Return the median distance of distinct positions to the nearest other; 1 for a single one."""
    if tree.n < 2:
        return 1.0
    nearest = np.asarray(tree.query(tree.data, k=[2])[0], np.float64)
    if nearest.min() > 0:
        return float(np.median(nearest))
    distinct = np.unique(tree.data, axis=0)
    return _spacing(cKDTree(distinct)) if len(distinct) < tree.n else 1.0


def neighbour_mean(values: csr_array, xy: NDArray[np.float64], k: int) -> csr_array:
    """Return the mean over each spot and its K nearest neighbours, (N, G) float32."""
    return csr_array(averaging(xy, k) @ values)


def averaging(xy: NDArray[np.float64], k: int) -> csr_array:
    """Return the (N, N) float32 matrix that takes the mean over each spot and its K nearest."""
    near = nearest_neighbours(xy, k)
    return _weights(near, np.full(near.shape, 1.0 / near.shape[1], np.float32))


def surroundings(
    values: csr_array, xy: NDArray[np.float64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean of the K nearest neighbours alone, and the size of its gradient.

    The gradient is the modulus of the first azimuthal harmonic, |sum_j (x_j - mean) exp(i a_j)| / K
    with a_j the direction of neighbour j (Singhal et al., Nature Genetics 2024, BANKSY, m = 1, with
    uniform weights): 0 inside a domain, large where expression changes across the spot.

    Returns
    -------
    tuple
        Two (N, G) float32 arrays; both 0 for a spot without any neighbour.
    """
    near = nearest_neighbours(xy, k)
    n = near.shape[0]
    others = near[:, 1:] if near.shape[1] > 1 else near
    # Where a spot has no neighbour it stands for itself: mean 0 is taken below.
    apart = xy[others] - xy[:, None, :]
    angle = np.arctan2(apart[..., 1], apart[..., 0])
    share = np.full(others.shape, (1.0 if near.shape[1] > 1 else 0.0) / others.shape[1])
    mean = np.asarray((_weights(others, share) @ values).todense(), np.float64)
    squared = np.zeros((n, values.shape[1]))
    for wave in (np.cos(angle) * share, np.sin(angle) * share):
        part = np.asarray((_weights(others, wave) @ values).todense(), np.float64)
        squared += (part - wave.sum(axis=1)[:, None] * mean) ** 2
    return mean.astype(np.float32), np.sqrt(squared).astype(np.float32)


def _weights(near: NDArray[np.int64], weights: NDArray[np.floating]) -> csr_array:
    """Return (N, N) weights of the neighbours (N, K) of each spot."""
    n, width = near.shape
    starts = np.arange(0, near.size + 1, width)
    return csr_array((weights.ravel(), near.ravel(), starts), shape=(n, n))
