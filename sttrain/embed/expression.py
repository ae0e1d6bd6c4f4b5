"""Expression of whole slices, log1p(CP10K): as controls judge it, and to stand beside features.

``log1p(CP10K)`` is ``log(1 + 10,000 * count / total)`` with the spot's library size over all genes
of its source. Letters: N spots of a slice, G genes, K neighbours, D components.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sttrain.embed.evaluation import EvaluationSet
from sttrain.embed.neighbours import neighbour_mean
from sttrain.embed.projection import most_components, principal_components
from sttrain.errors import BadInputError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice

_TARGET: Final = 1e4


def expression(whole: "WholeSlice", genes: NDArray[np.int32]) -> csr_array:
    """Return log1p(CP10K) of one slice.

    Parameters
    ----------
    whole
        The slice.
    genes
        (G,) vocabulary indices, ascending; all measured by the slice.

    Returns
    -------
    scipy.sparse.csr_array
        (N, G) float32; unstored entries are 0.

    Raises
    ------
    BadInputError
        A gene that the slice does not measure: its counts are unknown, not zero.
    """
    unknown = np.setdiff1d(genes, whole.genes, assume_unique=True)
    if unknown.size:
        raise BadInputError(
            Problem(
                code="V05",
                subject=f"slice '{whole.meta.slice}'",
                what=f"{unknown.size} of {genes.size} genes are not measured by it",
                fix="use genes that all slices measure",
            )
        )
    n_columns = int(whole.genes[-1]) + 1 if whole.genes.size else 0
    spots = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    scaled = _TARGET * whole.data.astype(np.float64) / whole.totals[spots]
    counts = csr_array(
        (np.log1p(scaled).astype(np.float32), whole.indices, whole.indptr),
        shape=(whole.meta.n_spots, n_columns),
    )
    return csr_array(counts[:, genes])


def mean_expression(whole: "WholeSlice", genes: NDArray[np.int32], neighbours: int) -> csr_array:
    """Return the mean of `expression` over each spot and its K nearest, (N, G); as it is for 0."""
    values = expression(whole, genes)
    return neighbour_mean(values, whole.xy, neighbours) if neighbours else values


def expression_components(
    data: EvaluationSet, neighbours: int, n_components: int
) -> dict[str, NDArray[np.float32]]:
    """Return the first principal components of mean expression, (N, D) of every slice.

    Parameters
    ----------
    data
        Slices, and the genes that their patches show: what an encoder sees, too.
    neighbours
        K; 0 takes each spot alone.
    n_components
        D, or as many as there are where a panel or a corpus has fewer.
    """
    tables = {s: mean_expression(w, data.genes, neighbours) for s, w in data.slices.items()}
    shape = sum(table.shape[0] for table in tables.values()), data.genes.size
    kept = min(n_components, most_components(shape))
    return principal_components(tables, kept, f"expression of corpus '{data.corpus}'")
