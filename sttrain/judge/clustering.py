"""Unsupervised domains: k-means, Leiden and Gaussian mixtures, and how the domains are judged.

A slice is clustered on its own, at a given number of domains or at one that the algorithm finds.
Letters: N spots of a slice, D features, K domains.
"""

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sttrain.embed.neighbours import nearest_neighbours

Domains: TypeAlias = NDArray[np.int64]
Algorithm = Literal["kmeans", "leiden", "gmm"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("kmeans", "leiden", "gmm")

STARTS: Final = 10
"""Random starts of k-means; the best is kept."""
MOST_DOMAINS: Final = 15
"""Numbers of domains that are tried where it is estimated: 2 to this."""
GRAPH_NEIGHBOURS: Final = 15
"""Neighbours of the graph that Leiden cuts."""
PAS_NEIGHBOURS: Final = 10
_SILHOUETTE_STARTS: Final = 3
_BISECTIONS: Final = 20
_WIDEST_RESOLUTION: Final = 64.0


def find_domains(
    features: NDArray[np.float64], algorithm: Algorithm, n_domains: int | None, seed: int
) -> Domains:
    """Cluster the spots of one slice.

    Parameters
    ----------
    features
        (N, D) float64.
    algorithm
        ``kmeans``; ``leiden`` on the graph of the 15 nearest neighbours; ``gmm``, a Gaussian
        mixture with one covariance for all domains (mclust's model EEE, the field's habit).
    n_domains
        K. Without it, the number is estimated: by the mean silhouette (kmeans), the Bayesian
        information criterion (gmm), or at resolution 1 (leiden).
    seed
        Of every draw.

    Returns
    -------
    numpy.ndarray
        (N,) int64 domains from 0. Leiden may miss K, where no resolution gives it: the nearest
        number is taken.
    """
    if algorithm == "kmeans":
        return _kmeans(features, n_domains or _silhouette_number(features, seed), STARTS, seed)
    if algorithm == "gmm":
        return _mixture(features, n_domains, seed)
    return _leiden(features, n_domains, seed)


def chaos(domains: Domains, xy: NDArray[np.float64]) -> float:
    """Return how scattered domains are: the mean distance to the nearest spot of the same domain.

    Positions are standardised axis by axis; domains of one or two spots add nothing to the sum but
    count among the spots (Shang and Zhou, Nature Communications 2022; computed as in SDMBench,
    Yuan et al., Nature Methods 2024). Lower is smoother.
    """
    spread = xy.std(axis=0)
    placed = (xy - xy.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    total = 0.0
    for domain in np.unique(domains):
        members = placed[domains == domain]
        if len(members) > 2:
            nearest = np.asarray(cKDTree(members).query(members, k=[2])[0], np.float64)
            total += float(nearest.sum())
    return total / len(domains)


def abnormal_spots(domains: Domains, xy: NDArray[np.float64]) -> float:
    """Return PAS, the share of spots most of whose 10 nearest neighbours are of other domains.

    "Most" is more than half of ten, also in a slice with fewer neighbours (Shang and Zhou 2022,
    SDMBench); ties of distance go to grid order. Distances are physical. Lower is smoother.
    """
    near = nearest_neighbours(xy, PAS_NEIGHBOURS)
    others = domains[near] != domains[:, None]
    return float(np.mean(others.sum(axis=1) > PAS_NEIGHBOURS / 2))


def _kmeans(features: NDArray[np.float64], k: int, starts: int, seed: int) -> Domains:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(k, n_init=starts, random_state=seed).fit_predict(features), np.int64)


def _silhouette_number(features: NDArray[np.float64], seed: int) -> int:
    from sklearn.metrics import silhouette_score

    best, chosen = -np.inf, 2
    for k in range(2, min(MOST_DOMAINS, len(features) - 1) + 1):
        found = _kmeans(features, k, _SILHOUETTE_STARTS, seed)
        if np.unique(found).size < 2:
            continue
        score = float(silhouette_score(features, found))
        if score > best:
            best, chosen = score, k
    return chosen


def _mixture(features: NDArray[np.float64], n_domains: int | None, seed: int) -> Domains:
    from sklearn.mixture import GaussianMixture

    # Features of any unit: the floor of the covariance is a millionth of their variance.
    floor = 1e-6 * float(features.var(axis=0).mean()) or 1e-6
    numbers = [n_domains] if n_domains else range(2, min(MOST_DOMAINS, len(features) - 1) + 1)
    fitted = [
        GaussianMixture(
            k, covariance_type="tied", reg_covar=floor, random_state=seed, max_iter=500, n_init=2
        ).fit(features)
        for k in numbers
    ]
    chosen = min(fitted, key=lambda model: float(model.bic(features))) if len(fitted) > 1 else None
    return np.asarray((chosen or fitted[0]).predict(features), np.int64)


def _leiden(features: NDArray[np.float64], n_domains: int | None, seed: int) -> Domains:
    """Cut the neighbour graph at resolution 1, or at the one that gives K domains."""
    cut = _Cutter(features, seed)
    if n_domains is None:
        return cut.at(1.0)
    low, high = 0.0, 1.0
    best = cut.at(high)
    while best.max() + 1 < n_domains and high < _WIDEST_RESOLUTION:
        low, high = high, high * 2
        best = cut.at(high)
    for _ in range(_BISECTIONS):
        if best.max() + 1 == n_domains:
            break
        middle = (low + high) / 2
        found = cut.at(middle)
        if abs(found.max() + 1 - n_domains) < abs(best.max() + 1 - n_domains):
            best = found
        low, high = (middle, high) if found.max() + 1 < n_domains else (low, middle)
    return best


class _Cutter:
    """The graph of the nearest neighbours of a slice, cut at any resolution."""

    def __init__(self, features: NDArray[np.float64], seed: int) -> None:
        import igraph

        near = nearest_neighbours(features, GRAPH_NEIGHBOURS)[:, 1:]
        spots = np.repeat(np.arange(len(features)), near.shape[1])
        edges = np.sort(np.stack([spots, near.ravel()], axis=1), axis=1)
        pairs, times = np.unique(edges, axis=0, return_counts=True)
        self.graph = igraph.Graph(n=len(features), edges=pairs.tolist())
        self.weights = times.astype(float).tolist()
        self.seed = seed

    def at(self, resolution: float) -> Domains:
        """Return the domains of modularity with this resolution, the largest first."""
        import leidenalg

        found = leidenalg.find_partition(
            self.graph,
            leidenalg.RBConfigurationVertexPartition,
            weights=self.weights,
            resolution_parameter=resolution,
            n_iterations=-1,
            seed=self.seed,
        )
        return np.asarray(found.membership, np.int64)
