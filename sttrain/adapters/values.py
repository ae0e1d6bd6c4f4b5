"""The numbers of a slice that scGPT and scGPT-spatial bin. Letters: N spots, G genes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice


@dataclass(frozen=True, kw_only=True)
class KnownCounts:
    """The counts of a slice in genes that the model knows, spot by spot."""

    starts: NDArray[np.int64]
    """(N + 1,) where each spot begins."""
    genes: NDArray[np.int64]
    """Row of the model's gene table of every count."""
    counts: NDArray[np.float64]
    """The counts, all above 0."""
    share: float
    """Share of all counts of the slice's measured genes that these are."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) genes of every spot."""
        return np.diff(self.starts)


def known_counts(whole: "WholeSlice", rows: NDArray[np.int64]) -> KnownCounts:
    """Keep the counts of genes that a model knows.

    Parameters
    ----------
    whole
        The slice.
    rows
        Row in the model's gene table of each gene of the vocabulary, -1 where it has none.
    """
    genes = rows[whole.indices]
    kept = genes >= 0
    starts = np.concatenate([[0], np.cumsum(kept)])[whole.indptr]
    counts = whole.data[kept].astype(np.float64)
    total = float(whole.data.sum(dtype=np.float64))
    return KnownCounts(
        starts=starts.astype(np.int64),
        genes=genes[kept],
        counts=counts,
        share=float(counts.sum()) / total if total else 0.0,
    )


def spatial_values(
    known: KnownCounts, means: NDArray[np.float64]
) -> tuple[NDArray[np.float32], int]:
    """Divide by the slide's mean count and by the mean of each gene, as scGPT-spatial does.

    A gene without a mean in the table is divided by its own mean over the spots of the slice
    that have it, after the first division.

    Parameters
    ----------
    known
        Counts of one slice.
    means
        Mean of each gene of the model, NaN where there is none.

    Returns
    -------
    tuple
        The values in the order of the counts, float32, and how many genes had no mean.
    """
    if not known.counts.size:
        return np.empty(0, np.float32), 0
    scaled = known.counts / known.counts.mean()
    with np.errstate(invalid="ignore"):  # of genes that no spot has, which are not looked up
        sums = np.bincount(known.genes, scaled, minlength=means.size)
        own = sums / np.bincount(known.genes, minlength=means.size)
    lost = np.isnan(means)
    divisors = np.where(lost, own, means)
    n_lost = int(np.count_nonzero(lost[np.unique(known.genes)]))
    return (scaled / divisors[known.genes]).astype(np.float32), n_lost
