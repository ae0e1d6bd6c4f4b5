"""What is measured on the training patches before the first step."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttrain.model import normalise
from sttrain.order import Order
from sttrain.places import send
from sttrain.stream import PatchSource

_CHUNK = 32


def corpus_means(source: PatchSource, seed: int, n_patches: int) -> tuple[Tensor, float]:
    """Return the mean of each gene and of the library size over observed sites.

    Parameters
    ----------
    source
        The training patches.
    seed
        Chooses which of them are read, as it chooses the order of training.
    n_patches
        Read so many, or all where there are fewer.

    Returns
    -------
    tuple
        (K,) float32 mean log1p(CP10K), 0 for genes that were not met, and the mean log1p library
        size. The same for any number of workers, threads and ranks.

    Raises
    ------
    IntegrityError
        A patch is damaged.
    """
    sums = np.zeros(source.n_genes)
    seen = np.zeros(source.n_genes)
    depth = sites = 0.0
    order = Order(n_samples=len(source), batch=_CHUNK, seed=seed)
    for step in range(min(order.steps, -(-n_patches // _CHUNK))):
        counts, genes, totals = source.read(order.global_batch(0, step).tolist())
        batch = normalise(*as_tensors(counts, genes, totals, torch.device("cpu")))
        # Values are 0 at unobserved sites, so that a plain sum leaves them out.
        per_gene = batch.values.double().sum(2).numpy()  # (B, M)
        observed = batch.observed.sum(1).numpy()  # (B,)
        real = batch.real.numpy()
        index = batch.genes.numpy()[real]
        np.add.at(sums, index, per_gene[real])
        np.add.at(seen, index, np.broadcast_to(observed[:, None], real.shape)[real])
        depth += float(batch.depth.double().sum())
        sites += float(observed.sum())
    means = torch.from_numpy((sums / np.maximum(seen, 1)).astype(np.float32))
    return means, depth / max(sites, 1.0)


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
