"""First rows of the gene table from the co-expression of genes over training patches.

Genes that rise and fall together begin near each other. Co-expression is the matrix R of
correlations, R[g, h] = S[g, h] / sqrt(S[g, g] S[h, h]), where S adds up products of centred
log1p(CP10K) over all sites at which both genes are shown; patches show different genes, and pairs
that seldom meet come out small. R is positive semidefinite, so that its leading D principal
components give loadings F with F F^T close to R; the part of a gene that they do not explain is
left random. With U the usual random table,

    table = sqrt(D) F + sqrt(1 - |F_g|^2) U,

rows have the same mean square as those of U, and the inner products of two rows over D are their
correlation. R is never formed (a vocabulary has tens of thousands of genes): two passes over the
patches and a Nystroem sketch (Halko, Martinsson and Tropp, SIAM Review 2011, section 5.5) give its
leading part.

Letters: K genes of the vocabulary, D width, Q columns of the sketch.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from sttrain.model.autoencoder import Sites
from sttrain.stream.batches import PatchSource
from sttrain.train.objectives import keyed_generator
from sttrain.train.statistics import read_patches

_SPARE: Final = 32
"""Columns of the sketch beyond the components that are kept."""


def coexpression_table(
    source: PatchSource, seed: int, n_patches: int, gene_mean: Tensor, random: Tensor
) -> Tensor:
    """Return (K, D) float32 first rows of the gene table.

    Parameters
    ----------
    source, seed, n_patches
        Which training patches are read; no other split is.
    gene_mean
        (K,) mean log1p(CP10K) over the same patches.
    random
        (K, D) the usual table, independent standard normal numbers; it stays for genes that are
        never met.

    Raises
    ------
    IntegrityError
        A patch is damaged.
    """
    # One thread: sums of products come out the same whatever the machine is given.
    with threadpool_limits(1):
        loadings = _loadings(source, seed, n_patches, gene_mean, random.shape[1])
    explained = np.square(loadings).sum(1, keepdims=True)
    rest = np.sqrt(np.clip(1 - explained, 0, 1))
    table = np.sqrt(random.shape[1]) * loadings + rest * random.double().numpy()
    return torch.from_numpy(table.astype(np.float32))


def _loadings(
    source: PatchSource, seed: int, n_patches: int, gene_mean: Tensor, D: int
) -> NDArray[np.float64]:
    """Return (K, D) F: eigenvectors of R times the roots of its eigenvalues, greatest first."""
    K = source.n_genes
    power = np.zeros(K)
    for sites, _, _ in read_patches(source, seed, n_patches):
        for x, genes in _centred(sites, gene_mean):
            power[genes] += np.square(x).sum(1)
    scale = np.where(power > 0, 1 / np.sqrt(np.where(power > 0, power, 1)), 0)
    Q = min(K, D + _SPARE)
    generator = keyed_generator("coexpression", seed)
    test = torch.randn(K, Q, dtype=torch.float64, generator=generator).numpy()
    test = np.linalg.qr(test)[0]
    sketch = np.zeros((K, Q))  # R times `test`
    for sites, _, _ in read_patches(source, seed, n_patches):
        for x, genes in _centred(sites, gene_mean):
            scaled = x * scale[genes, None]  # (genes, sites)
            sketch[genes] += scaled @ (scaled.T @ test[genes])
    vectors, values = _nystroem(sketch, test)
    found = np.zeros((K, D))
    kept = min(D, len(values))
    found[:, :kept] = vectors[:, :kept] * np.sqrt(values[:kept])
    return found


def _nystroem(
    sketch: NDArray[np.float64], test: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvectors (K, q) and eigenvalues (q,), greatest first, from a sketch R @ test.

    At most the Q columns of `test`, fewer where R has no more.
    """
    core = test.T @ sketch
    weights, basis = np.linalg.eigh((core + core.T) / 2)
    # Directions that hold nothing but rounding: genes that were never met, or fewer sites than Q.
    sound = weights > weights.max(initial=0) * len(weights) * 16 * np.finfo(np.float64).eps
    half = sketch @ (basis[:, sound] / np.sqrt(weights[sound]))
    vectors, singular, _ = np.linalg.svd(half, full_matrices=False)
    # The sign of an eigenvector is nobody's choice: the largest entry is made positive.
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return vectors * np.where(signs == 0, 1, signs), np.square(singular)


def _centred(
    sites: Sites, gene_mean: Tensor
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return for each patch centred values (genes, observed sites) and its genes' indices."""
    found = []
    for i in range(len(sites.values)):
        genes = sites.genes[i][sites.real[i]]
        x = sites.values[i][sites.real[i]][:, sites.observed[i]].double()
        found.append(((x - gene_mean[genes, None]).numpy(), genes.numpy()))
    return found
