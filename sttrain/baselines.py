"""Features that need no training: what an encoder has to beat.

Each is computed from the whole slices of an evaluation corpus, without labels. ``log1p(CP10K)``
is ``log(1 + 10,000 * count / total)`` with the spot's library size over all genes of its source.
Letters: N spots of a slice, G genes, K neighbours, D features.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from scipy.spatial import cKDTree

from sttrain.embeddings import Embeddings, SliceEmbedding
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.evaluation import EvaluationSet

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice

BASELINE_VERSION: Final = 1
"""Raised when a baseline's definition changes, so that stored results are not taken for it."""
EXAMPLES: Final = ("raw", "pca10", "pca50", "nbmean6-pca50", "nbmean18-pca50", "coords", "majority")
"""Names that ``--help`` shows; the numbers are free."""

_GRAMMAR: Final = re.compile(
    r"raw|coords|majority|nbmean(?P<only>[1-9]\d{0,2})"
    r"|(?:nbmean(?P<k>[1-9]\d{0,2})-)?pca(?P<d>[1-9]\d{0,3})"
)
_TARGET: Final = 1e4
_MARGIN: Final = 24
"""Neighbours asked for beyond K, so that ties at the K-th distance are broken by rule."""
_COVARIANCE_LIMIT: Final = 4096
"""Up to so many genes, PCA goes through the exact G x G covariance."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A baseline, as its name says."""

    name: str
    kind: str
    """``expression``, ``coords`` or ``majority``."""
    neighbours: int | None = None
    """Physical neighbours that are averaged with the spot itself."""
    components: int | None = None
    """Principal components that are kept; none keeps the genes."""


def parse_method(name: str) -> Method:
    """Read the name of a baseline.

    ``raw`` is log1p(CP10K) of the gene set; ``pcaD`` its first D principal components;
    ``nbmeanK`` the mean over a spot and its K nearest neighbours; ``nbmeanK-pcaD`` the principal
    components of that; ``coords`` position and slice without any gene; ``majority`` no features.

    Raises
    ------
    BadUsageError
        Any other name; the nearest known one is suggested.
    """
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        near = get_close_matches(name, EXAMPLES, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise BadUsageError(
            Problem(
                code="V03",
                subject=f"method '{name}'",
                where="--method",
                what="no baseline of this name",
                fix=f"{hint}baselines: {', '.join(EXAMPLES)} (the numbers are free); "
                "vectors from a file are given as --embedding NAME=FILE.h5ad",
            )
        )
    if name in ("coords", "majority"):
        return Method(name=name, kind=name)
    k, d = match["k"] or match["only"], match["d"]
    return Method(
        name=name,
        kind="expression",
        neighbours=int(k) if k else None,
        components=int(d) if d else None,
    )


def compute_baseline(data: EvaluationSet, method: Method) -> Embeddings:
    """Return the features of every spot of every slice.

    Principal components are fitted once on all spots of the corpus, labelled or not. They see
    the features of test spots, never a label.

    Raises
    ------
    BadUsageError
        More components than genes or spots.
    """
    if method.kind == "majority":
        parts = {slug: np.zeros((w.meta.n_spots, 0), np.float32) for slug, w in data.slices.items()}
    elif method.kind == "coords":
        parts = _coordinates(data)
    else:
        parts = _expression_features(data, method)
    return Embeddings(
        slices={
            slug: SliceEmbedding(barcodes=data.barcodes(slug), matrix=matrix)
            for slug, matrix in parts.items()
        },
        provenance={"method": method.name, "corpus_id": data.corpus_id},
    )


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


def nearest_neighbours(xy: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return every spot's K nearest spots by physical distance, the spot itself among them.

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
        (N, min(K + 1, N)) int64 indices, nearest first.
    """
    n = xy.shape[0]
    wanted = min(k + 1, n)
    asked = min(wanted + _MARGIN, n)
    # A list of ranks keeps the answer two-dimensional when only one neighbour is asked for.
    answer = cKDTree(xy).query(xy, k=np.arange(1, asked + 1))
    distances, found = np.asarray(answer[0], np.float64), np.asarray(answer[1], np.int64)
    spacing = float(np.median(distances[:, 1])) if n > 1 else 1.0
    rounded = np.round(distances / (spacing * 1e-6 or 1.0))
    order = np.lexsort((found, rounded), axis=1)[:, :wanted]
    return np.take_along_axis(found, order, axis=1)


def neighbour_mean(values: csr_array, xy: NDArray[np.float64], k: int) -> csr_array:
    """Return the mean over each spot and its K nearest neighbours, (N, G) float32."""
    near = nearest_neighbours(xy, k)
    n, width = near.shape
    weights = np.full(near.size, 1.0 / width, np.float32)
    starts = np.arange(0, near.size + 1, width)
    average = csr_array((weights, near.ravel(), starts), shape=(n, n))
    return csr_array(average @ values)


def _expression_features(data: EvaluationSet, method: Method) -> dict[str, NDArray[np.float32]]:
    tables: dict[str, csr_array] = {}
    for slug, whole in data.slices.items():
        values = expression(whole, data.genes)
        if method.neighbours is not None:
            values = neighbour_mean(values, whole.xy, method.neighbours)
        tables[slug] = values
    if method.components is None:
        return {slug: values.toarray() for slug, values in tables.items()}
    return _principal_components(tables, method)


def _principal_components(
    tables: Mapping[str, csr_array], method: Method
) -> dict[str, NDArray[np.float32]]:
    from sklearn.decomposition import PCA

    stacked = vstack(list(tables.values()), format="csr").astype(np.float64)
    n_spots, n_genes = stacked.shape
    solver = "covariance_eigh" if n_genes <= _COVARIANCE_LIMIT else "arpack"
    # An exact solver takes min(N, G) components; the iterative one has to leave one out.
    limit = min(n_spots, n_genes) - (solver == "arpack")
    components = method.components or 0
    if components > limit:
        raise BadUsageError(
            Problem(
                code="V06",
                subject=f"method '{method.name}'",
                what=f"{components} components of {n_spots:,} spots and {n_genes:,} genes",
                fix=f"ask for at most {limit}, such as pca{min(10, limit)}",
            )
        )
    scores = PCA(components, svd_solver=solver, random_state=0).fit_transform(stacked)
    bounds = np.cumsum([0, *(table.shape[0] for table in tables.values())]).tolist()
    return {
        slug: np.ascontiguousarray(scores[start:stop], np.float32)
        for slug, (start, stop) in zip(tables, pairwise(bounds), strict=True)
    }


def _coordinates(data: EvaluationSet) -> dict[str, NDArray[np.float32]]:
    """Return (N, 2) positions in pitches, centred; with several slices, also which one it is.

    The slice stands as one column each, as large as the largest slice is wide, so that a nearest
    neighbour is always of the same slice.
    """
    centred: dict[str, NDArray[np.float64]] = {}
    for slug, whole in data.slices.items():
        pitch = whole.meta.pitch or 1.0
        centred[slug] = (whole.xy - whole.xy.mean(axis=0)) / pitch
    if len(centred) == 1:
        return {slug: xy.astype(np.float32) for slug, xy in centred.items()}
    reach = max(float(np.hypot(*(xy.max(axis=0) - xy.min(axis=0)))) for xy in centred.values())
    parts: dict[str, NDArray[np.float32]] = {}
    for number, (slug, xy) in enumerate(centred.items()):
        which = np.zeros((xy.shape[0], len(centred)))
        which[:, number] = reach
        parts[slug] = np.concatenate([xy, which], axis=1).astype(np.float32)
    return parts
