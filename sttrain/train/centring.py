"""Means of genes over single slices, which values may be centred by (`model.centre_by = "slice"`).

In training they are those of the slice's patches of the split: every patch is read once before the
first step, and again when a run goes on. A slice that is embedded gives its own, over all its
spots; nothing of the training slices and no label is needed for it.

Letters: B batch, M genes of a patch, N spots, K genes of the vocabulary, S slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stbuild.corpus.samples import WholeSlice
from sttrain.model.autoencoder import TARGET_SUM, normalise
from sttrain.stream.batches import PatchSource
from sttrain.train.statistics import as_tensors

_CHUNK: Final = 32


@dataclass(frozen=True, kw_only=True)
class SliceMeans:
    """Means of the genes of some slices."""

    rows: Mapping[str, int]
    """Row of each slice, by slug."""
    table: Tensor
    """(S, K) float32 mean log1p(CP10K) over observed sites; 0 for genes that were not met."""

    def of(self, slices: Sequence[str], genes: Tensor) -> Tensor:
        """Return (B, M) the means of the genes (B, M) of patches of some slices; 0 for padding."""
        rows = torch.tensor([self.rows[slug] for slug in slices])
        found = self.table[rows[:, None], genes.clamp(min=0).long()]
        return torch.where(genes >= 0, found, 0)


def measure_slices(*sources: PatchSource) -> SliceMeans:
    """Measure the means over all patches of a split, and of slices that only other splits have.

    A slice's patches overlap, so that its sites count as often as they are trained on. Blocks of
    a slice that other splits hold have no part in its means.

    Parameters
    ----------
    sources
        The training split first.

    Raises
    ------
    IntegrityError
        A patch is damaged, and damage is not to be skipped.
    """
    slugs = sorted({slug for source in sources for slug in source.index.slices})
    rows = {slug: row for row, slug in enumerate(slugs)}
    n_genes = max(source.n_genes for source in sources)
    sums, seen = np.zeros((len(rows), n_genes)), np.zeros((len(rows), n_genes))
    measured: set[str] = set()
    for source in sources:
        here = [i for i, slug in enumerate(source.index.slices) if slug not in measured]
        measured |= set(source.index.slices)
        for first in range(0, len(here), _CHUNK):
            numbers = here[first : first + _CHUNK]
            found = source.gather(numbers)  # without the damaged ones, where those are skipped
            host = torch.device("cpu")
            batch = normalise(*as_tensors(found.counts, found.genes, found.totals, host))
            real, index = batch.real.numpy(), batch.genes.numpy()
            kept = [numbers[at] for at in found.kept.tolist()]
            mine = np.array([rows[source.index.slices[number]] for number in kept], np.int64)
            places = np.broadcast_to(mine[:, None], real.shape)[real], index[real]
            np.add.at(sums, places, batch.values.double().sum(2).numpy()[real])
            observed = batch.observed.sum(1, keepdim=True).numpy()
            np.add.at(seen, places, np.broadcast_to(observed, real.shape)[real])
    means = (sums / np.maximum(seen, 1)).astype(np.float32)
    return SliceMeans(rows=rows, table=torch.from_numpy(means))


def whole_means(whole: WholeSlice, n_genes: int) -> NDArray[np.float32]:
    """Return (K,) the mean log1p(CP10K) of every gene over all spots of a slice.

    Parameters
    ----------
    whole
        The slice.
    n_genes
        Genes of the vocabulary, K; those that the slice does not measure get 0.
    """
    sums = np.bincount(whole.indices, weights=log_values(whole), minlength=n_genes)
    return (sums / max(whole.meta.n_spots, 1)).astype(np.float32)


def log_values(whole: WholeSlice) -> NDArray[np.float64]:
    """Return log1p(CP10K) of every stored count of a slice; those that are not stored are 0."""
    size = np.repeat(whole.totals.astype(np.float64), np.diff(whole.indptr))
    return np.log1p(whole.data * (TARGET_SUM / np.maximum(size, 1)))


def gene_variances(whole: WholeSlice) -> NDArray[np.float64]:
    """Return the variance of log1p(CP10K) of each gene over all spots, to the last stored gene."""
    values, n = log_values(whole), max(whole.meta.n_spots, 1)
    mean = np.bincount(whole.indices, weights=values) / n
    square = np.bincount(whole.indices, weights=np.square(values)) / n
    return np.maximum(square - np.square(mean), 0)
