"""Macro-domains of a slice: seeded k-means on position and principal components (Eq. 4).

A slice's domains are a function of its counts and positions, of the seed and of the settings: the
same in every epoch, on every rank and for evaluation. No label is looked at. Letters: N spots,
G genes, C domains.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from stbuild.corpus.samples import WholeSlice
from sttrain.model.pretext import ContextConfig
from sttrain.train.centring import gene_variances, log_values

_GENES: Final = 512
"""Genes of greatest variance that the components are taken of."""
_FITTED: Final = 20_000
"""Most spots that components and centres are fitted on; all spots are then assigned."""
_STARTS: Final = 4


def find_domains(whole: WholeSlice, config: ContextConfig, seed: int) -> NDArray[np.int64]:
    """Return (N,) the macro-domain of every spot of a slice.

    Parameters
    ----------
    whole
        The slice.
    config
        Number of domains, share of the position, number of components.
    seed
        Of the run.
    """
    n = whole.meta.n_spots
    if min(config.domains, n) < 2:
        return np.zeros(n, np.int64)
    text = f"sttrain/domains/v1\0{seed}\0{whole.meta.slice}"
    state = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    # One thread: with several, centres are sums in an order that varies.
    with threadpool_limits(1):
        fitted = np.linspace(0, n - 1, min(n, _FITTED)).astype(np.int64)
        features = _features(whole, config, fitted, state)
        kmeans = KMeans(min(config.domains, n), n_init=_STARTS, random_state=state)
        return np.asarray(kmeans.fit(features[fitted]).predict(features), np.int64)


def _features(
    whole: WholeSlice, config: ContextConfig, fitted: NDArray[np.int64], state: int
) -> NDArray[np.float64]:
    """Return what distances are taken of: positions and components, weighted."""
    values = _variable_genes(whole)
    most = min(config.domain_components, values.shape[1], len(fitted))
    parts = [(config.domain_position, whole.xy)]
    if most:
        pca = PCA(most, svd_solver="randomized", random_state=state).fit(values[fitted])
        parts.append((1 - config.domain_position, pca.transform(values)))
    return np.concatenate([_weighted(share, part) for share, part in parts], axis=1)


def _weighted(share: float, part: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a part whose squared distances add up to `share`, on average, times two."""
    centred = part.astype(np.float64) - part.mean(axis=0)
    total = np.square(centred).mean(axis=0).sum()
    return np.asarray(centred * np.sqrt(share / total) if total > 0 else centred)


def _variable_genes(whole: WholeSlice) -> NDArray[np.float32]:
    """Return (N, G) log1p(CP10K) of the genes of greatest variance."""
    values, variance = log_values(whole), gene_variances(whole)
    n_genes = min(_GENES, int(np.count_nonzero(variance)))
    chosen = np.argsort(-variance, kind="stable")[:n_genes]
    column = np.full(len(variance), -1)
    column[chosen] = np.arange(n_genes)
    at = column[whole.indices]
    spot = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    dense = np.zeros((whole.meta.n_spots, n_genes), np.float32)
    dense[spot[at >= 0], at[at >= 0]] = values[at >= 0]
    return dense
