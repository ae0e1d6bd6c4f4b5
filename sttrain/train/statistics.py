"""What is measured on the training patches before the first step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttrain.model.autoencoder import TARGET_SUM, Sites, normalise
from sttrain.model.places import send
from sttrain.stream.batches import PatchSource

_CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """What is measured over observed sites. Letters: K genes of the vocabulary."""

    gene_mean: Tensor
    """(K,) float32 mean log1p(CP10K); 0 for genes that were not met."""
    depth_mean: float
    """Mean log1p library size."""
    log_rate: Tensor
    """(K,) float32 log of each gene's share of all molecules, in 10,000ths, after one molecule in
    10,000 was added."""


def read_patches(
    source: PatchSource, seed: int, n_patches: int
) -> Iterator[tuple[Sites, Tensor, Tensor]]:
    """Yield patches in the order of the first epoch of training, in chunks of no influence.

    Parameters
    ----------
    source
        The training patches.
    seed
        Chooses which of them are read, as it chooses the order of training.
    n_patches
        Read so many, to the next whole chunk, or all where there are fewer.

    Yields
    ------
    tuple
        The patches as the model sees them, counts (B, M, P, P) and library sizes (B, P, P).
    """
    order = source.order(_CHUNK, seed)
    for step in range(min(order.steps, -(-n_patches // _CHUNK))):
        raw = source.read(order.global_batch(0, step).tolist())
        counts, genes, totals = as_tensors(*raw, torch.device("cpu"))
        yield normalise(counts, genes, totals), counts, totals


def measure_corpus(source: PatchSource, seed: int, n_patches: int) -> CorpusStatistics:
    """Measure genes and library sizes over some patches.

    Parameters
    ----------
    source, seed, n_patches
        As in :func:`read_patches`.

    Returns
    -------
    CorpusStatistics
        The same for any number of workers, threads and ranks.

    Raises
    ------
    IntegrityError
        A patch is damaged.
    """
    sums, seen, molecules, sizes = (np.zeros(source.n_genes) for _ in range(4))
    depth = sites = 0.0
    for batch, counts, totals in read_patches(source, seed, n_patches):
        real = batch.real.numpy()
        index = batch.genes.numpy()[real]
        observed = batch.observed.sum(1).numpy()  # (B,)
        # Values are 0 at unobserved sites, so that a plain sum leaves them out.
        shown = counts.flatten(2).double() * batch.observed[:, None]
        for found, values in (
            (sums, batch.values.double().sum(2).numpy()),
            (seen, observed[:, None]),
            (molecules, shown.sum(2).numpy()),
            (sizes, totals.flatten(1).double().sum(1, keepdim=True).numpy()),
        ):
            np.add.at(found, index, np.broadcast_to(values, real.shape)[real])
        depth += float(batch.depth.double().sum())
        sites += float(observed.sum())
    rate = (molecules + 1) / (sizes / TARGET_SUM + 1)
    return CorpusStatistics(
        gene_mean=torch.from_numpy((sums / np.maximum(seen, 1)).astype(np.float32)),
        depth_mean=depth / max(sites, 1.0),
        log_rate=torch.from_numpy(np.log(rate).astype(np.float32)),
    )


def as_tensors(
    counts: NDArray[np.generic],
    genes: NDArray[np.int32],
    totals: NDArray[np.uint32],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand the integers of a batch to a device.

    PyTorch converts unsigned 16-bit numbers to floats seventeen times more slowly than signed ones
    (133 ms against 8 for 32 patches), so they travel as signed where they fit, which they do in
    all but the most deeply sequenced patches.
    """
    if counts.dtype == np.uint16 and counts.size and int(counts.max()) < 2**15:
        wire = counts.view(np.int16)
    else:
        wire = counts.astype(np.int64)
    return (
        send(torch.from_numpy(wire), device),
        send(torch.from_numpy(genes), device),
        send(torch.from_numpy(totals.astype(np.int64)), device),
    )
