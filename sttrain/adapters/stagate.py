"""STAGATE through the package ``stagate-modern``: a graph autoencoder, trained slice by slice.

Dong and Zhang, Nature Communications 13, 1739 (2022). As its tutorial: the 3,000 most variable
genes, log1p of counts per 10,000, spots within reach of their neighbours joined. Here genes are
ranked by the variance of those values, where the tutorial takes scanpy's ``seurat_v3``.
Letters: N spots, G genes.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sttrain.adapters.packages import (
    annotate,
    foreign_checks,
    foreign_seed,
    import_extra,
    slice_pitch,
    sound_slices,
)
from sttrain.adapters.published import Request, describe_origin
from sttrain.embed.embeddings import Embeddings, SliceEmbedding
from sttrain.embed.evaluation import decode_barcodes, name_labels
from sttrain.embed.expression import expression

if TYPE_CHECKING:
    from anndata import AnnData

    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import WholeSlice

EPOCHS: Final = 1000
"""Of the package's default."""
N_GENES: Final = 3000
"""Most genes that are kept, as in the tutorial."""
REACH: Final = 1.3
"""Radius of the neighbourhood in pitches: the 6 of a hexagonal lattice, the 4 of a square one."""


def embed_stagate(corpus: "Corpus", request: Request) -> Embeddings:
    """Embed with STAGATE; see :func:`sttrain.adapters.published.PublishedMethod.embed`."""
    package = import_extra("STAGATE_pyG", "stagate")
    epochs = request.config.epochs or EPOCHS
    slices: dict[str, SliceEmbedding] = {}
    facts: dict[str, dict[str, float]] = {}
    wholes = sound_slices(corpus)
    for number, whole in enumerate(wholes):
        slug = whole.meta.slice
        if request.progress:
            request.progress(number, len(wholes), slug)
        table = _prepare(corpus, whole)
        with foreign_seed(), foreign_checks("stagate"):
            _train(package, table, request, epochs)
        slices[slug] = SliceEmbedding(
            barcodes=decode_barcodes(whole),
            matrix=np.ascontiguousarray(table.obsm["STAGATE"], np.float32),
            labels=name_labels(whole, corpus.document.labels),
        )
        neighbours = len(table.uns["Spatial_Net"]) / whole.meta.n_spots
        facts[slug] = {"genes": table.n_vars, "neighbours_mean": round(neighbours, 3)}
    packages = ("numpy", "torch", "torch-geometric", "stagate-modern")
    made_from = describe_origin(
        corpus, "stagate", packages, seed=request.config.seed, epochs=epochs, slices=facts
    )
    return Embeddings(slices=slices, provenance=made_from)


def _prepare(corpus: "Corpus", whole: "WholeSlice") -> "AnnData":
    """Return a slice over its most variable genes, positions in pitches."""
    genes = whole.genes[variable_genes(expression(whole, whole.genes), N_GENES)]
    names = [corpus.genes[i] for i in genes.tolist()]
    return annotate(whole, expression(whole, genes), names, 1 / slice_pitch(whole))


def _train(package: Any, table: "AnnData", request: Request, epochs: int) -> None:  # noqa: ANN401
    """Put ``STAGATE`` into a table."""
    package.Cal_Spatial_Net(table, rad_cutoff=REACH, model="Radius", verbose=False)
    package.train_STAGATE(
        table,
        n_epochs=epochs,
        random_seed=request.config.seed % 2**32,
        device=request.device,
        verbose=False,
    )


def variable_genes(values: csr_array, n: int) -> NDArray[np.int64]:
    """Return the columns, ascending, of the `n` genes of highest variance.

    Parameters
    ----------
    values
        (N, G) float32; unstored entries are 0.
    n
        Most genes; genes of variance 0 are never kept, ties go to the first.
    """
    exact = values.astype(np.float64)
    mean = np.asarray(exact.mean(axis=0)).ravel()
    square = np.asarray(exact.multiply(exact).mean(axis=0)).ravel()
    variance = square - mean**2
    order = np.argsort(-variance, kind="stable")[:n]
    return np.sort(order[variance[order] > 0])
