"""Novae through its package: a graph model of cells and their surroundings, over all slices.

Blampey et al., bioRxiv 2024.09.09.612009. With a folder of published weights zero-shot; without
one it is trained on the slices themselves, which see no label but all spots (transductive).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.corpus.digests import sha256_file
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
from sttrain.errors import BadInputError, Problem

if TYPE_CHECKING:
    from anndata import AnnData

    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import WholeSlice

EPOCHS: Final = 20
"""Most epochs, the package's default; it stops early by itself."""
WEIGHTS: Final = "model.safetensors"
_PITCH_UM: Final = 100.0
"""Assumed where the unit of a slice is unknown: Visium's; distances are edge features."""


def embed_novae(corpus: "Corpus", request: Request) -> Embeddings:
    """Embed with Novae; see :func:`sttrain.adapters.published.PublishedMethod.embed`."""
    novae = import_extra("novae", "novae")
    wholes = sound_slices(corpus)
    if request.progress:
        request.progress(0, len(wholes), "all slices")
    digest = None if request.weights is None else _digest(request.weights)
    with foreign_seed(), foreign_checks("novae"):
        tables = [prepare_slice(novae, corpus, whole) for whole in wholes]
        _compute(novae, tables, request)
    slices: dict[str, SliceEmbedding] = {}
    facts: dict[str, dict[str, Any]] = {}
    for whole, table in zip(wholes, tables, strict=True):
        slices[whole.meta.slice] = SliceEmbedding(
            barcodes=decode_barcodes(whole),
            matrix=np.ascontiguousarray(table.obsm["novae_latent"], np.float32),
            labels=name_labels(whole, corpus.document.labels),
        )
        valid = table.obs["neighborhood_valid"].to_numpy(bool)
        facts[whole.meta.slice] = {
            "spots_without_neighbourhood": int(np.count_nonzero(~valid)),
            "pitch_assumed": whole.meta.pitch_um is None,
        }
    made_from = describe_origin(
        corpus,
        "novae",
        ("numpy", "torch", "torch-geometric", "lightning", "scanpy", "novae"),
        seed=request.config.seed,
        epochs=None if digest else request.config.epochs or EPOCHS,
        **({"checkpoint": digest} if digest else {}),
        slices=facts,
    )
    return Embeddings(slices=slices, provenance=made_from)


def _digest(folder: Path) -> str:
    """Return the digest of the weights; only safetensors are read, never a pickle.

    Raises
    ------
    BadInputError
        The folder has none, or no configuration.
    """
    missing = [name for name in ("config.json", WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise BadInputError(
            Problem(
                code="V30",
                subject=f"published weights '{folder.name}'",
                where=str(folder),
                what=f"{' and '.join(missing)} missing",
                fix="give a folder with config.json and model.safetensors, as the Hub has it",
            )
        )
    return sha256_file(folder / WEIGHTS)


def prepare_slice(novae: Any, corpus: "Corpus", whole: "WholeSlice") -> "AnnData":  # noqa: ANN401
    """Return a slice in micrometres with its graph, log1p of counts per median library size."""
    genes = [corpus.genes[i] for i in whole.genes.tolist()]
    scale = (whole.meta.pitch_um or _PITCH_UM) / slice_pitch(whole)
    table = annotate(whole, _log_values(whole), genes, scale)
    technology = "visium" if whole.meta.layout == "hex-offset" else "visium_hd"
    # The two names stand for a lattice of 6 and one of 4 neighbours.
    novae.spatial_neighbors(table, technology=technology, verbose=False)
    return table


def _log_values(whole: "WholeSlice") -> csr_array:
    """Normalise as the package does, which takes counts below 10 for logarithms already."""
    columns = np.searchsorted(whole.genes, whole.indices)
    counts = csr_array(
        (whole.data.astype(np.float32), columns, whole.indptr),
        shape=(whole.meta.n_spots, whole.genes.size),
    )
    totals: NDArray[np.float32] = np.asarray(counts.sum(axis=1), np.float32).ravel()
    some = totals > 0
    median = float(np.median(totals[some])) if some.any() else 1.0
    factors = np.where(some, median / np.where(some, totals, 1), 0).astype(np.float32)
    counts.data = np.log1p(counts.data * np.repeat(factors, np.diff(whole.indptr)))
    return counts


def _compute(novae: Any, tables: list["AnnData"], request: Request) -> None:  # noqa: ANN401
    """Put ``novae_latent`` into every table."""
    accelerator = "gpu" if request.device == "cuda" else "cpu"
    import_extra("lightning", "novae").seed_everything(request.config.seed % 2**32, verbose=False)
    if request.weights is not None:
        model = novae.Novae.from_pretrained(str(request.weights))
        # Its zero_shot would refit the prototypes of domains, of which no vector depends.
        model.compute_representations(tables, accelerator=accelerator)
        return
    # The package's own list of genes comes out of a set, in another order in every process.
    names = sorted(novae.utils.prepare_adatas(tables)[1])
    model = novae.Novae(tables, var_names=names)
    model.fit(
        max_epochs=request.config.epochs or EPOCHS,
        accelerator=accelerator,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.compute_representations(accelerator=accelerator)
