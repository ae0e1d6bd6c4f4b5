"""What a model knows of hidden sites of tissue that it has never seen.

The share of the squared error of log1p(CP10K) at hidden sites that its predictions take off, where
each slice's mean of every gene is the prediction to beat: above 0 it knows something of places.
Letters: B patches, M genes of a patch, L sites.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from stbuild.corpus.reader import Corpus
from sttrain.embed.evaluation import read_patch
from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, gather_sites, normalise
from sttrain.train.centring import whole_means

RATIO = 0.75
"""Share of the sites that is hidden."""
_BATCH = 16


@torch.inference_mode()
def explained_share(
    corpus: Corpus, model: MaskedAutoencoder, rows: NDArray[np.int32], donors: Sequence[str]
) -> float | None:
    """Return the share; none for objectives and losses that predict something else."""
    if model.pretext.objective != "patch" or model.pretext.counts:
        return None
    left = alone = 0.0
    for split in corpus.document.splits("slice"):
        means = {
            w.meta.slice: whole_means(w, len(corpus.genes)) for w in corpus.whole_slices(split)
        }
        index = corpus.index(split)
        wanted = [i for i in range(len(index)) if index.slices[i][0].upper() in donors]
        for first in range(0, len(wanted), _BATCH):
            patches = [read_patch(corpus, split, index, i) for i in wanted[first : first + _BATCH]]
            genes = np.stack([p.genes for p in patches])
            counts = torch.from_numpy(np.stack([p.counts.astype(np.int32) for p in patches]))
            totals = torch.from_numpy(np.stack([p.totals.astype(np.int64) for p in patches]))
            own = np.stack(
                [means[p.meta.slice][np.maximum(g, 0)] for p, g in zip(patches, genes, strict=True)]
            )
            numbers = torch.from_numpy(np.where(genes >= 0, rows[np.maximum(genes, 0)], -1))
            sites = replace(normalise(counts, numbers, totals), means=torch.from_numpy(own))
            generator = torch.Generator().manual_seed(first)
            hidden = torch.rand(sites.observed.shape, generator=generator) < RATIO
            found = model(sites, Hidden(sites=hidden & sites.observed))
            truth = gather_sites(sites.values, found.index)
            counted = (found.valid[:, None, :] & sites.real[..., None]).float()
            left += float(((truth - found.values).square() * counted).sum())
            alone += float(((truth - torch.from_numpy(own)[..., None]).square() * counted).sum())
    return 1 - left / alone if alone else None
