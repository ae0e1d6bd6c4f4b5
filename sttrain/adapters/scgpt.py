"""Embeddings of scGPT and scGPT-spatial from their published weights.

Recipe: ``tasks/cell_emb.py`` of both repositories, with every draw keyed. Slices are worked on one
after the other, spots in the order of their length, so that batches are hardly padded and memory
is that of one batch. Letters: N spots of a slice, B batch, D width.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_file
from sttrain.adapters.gene_names import GeneMapping, map_genes, read_symbols, require_mapped
from sttrain.adapters.published import Request, describe_origin
from sttrain.adapters.tokens import TokenBatch, pad_tokens, tokenize_spot
from sttrain.adapters.values import KnownCounts, known_counts, spatial_values
from sttrain.adapters.weights import CLS, ScgptWeights, read_weights_folder
from sttrain.embed.embeddings import Embeddings, SliceEmbedding
from sttrain.embed.evaluation import decode_barcodes, name_labels, require_sound

if TYPE_CHECKING:
    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import WholeSlice


@dataclass(frozen=True, kw_only=True)
class SliceFacts:
    """What became of the counts of a slice."""

    counts_mapped: float
    """Share of its counts that are of genes which the model knows."""
    spots_without_gene: int
    """Spots with no such count: their vector is that of ``<cls>`` alone."""
    spots_subsampled: int
    """Spots with more genes than tokens."""
    genes_without_mean: int | None
    """Genes that were divided by their own mean; scGPT-spatial only."""


def embed_scgpt(corpus: "Corpus", request: Request) -> Embeddings:
    """Embed with scGPT; see :func:`sttrain.adapters.published.PublishedMethod.embed`."""
    return _embed(corpus, request, "scgpt")


def embed_scgpt_spatial(corpus: "Corpus", request: Request) -> Embeddings:
    """Embed with scGPT-spatial; see :func:`sttrain.adapters.published.PublishedMethod.embed`."""
    return _embed(corpus, request, "scgpt-spatial")


def _embed(corpus: "Corpus", request: Request, method: str) -> Embeddings:
    weights = read_weights_folder(request.folder, spatial=method == "scgpt-spatial")
    symbols = None if request.gene_table is None else read_symbols(request.gene_table)
    mapping = map_genes(corpus.genes, weights.genes, symbols)
    subject = f"corpus '{corpus.document.name}'"
    require_mapped(mapping, corpus.genes, request.config.min_mapped, subject, method)
    embedder = _Embedder(weights, mapping, request)
    slices, facts = {}, {}
    for split in corpus.document.splits("slice"):
        for whole in corpus.whole_slices(split):
            require_sound(whole, len(corpus.document.labels))
            slug = whole.meta.slice
            matrix, facts[slug] = embedder.embed(whole)
            slices[slug] = SliceEmbedding(
                barcodes=decode_barcodes(whole),
                matrix=matrix,
                labels=name_labels(whole, corpus.document.labels),
            )
    made_from = describe_origin(
        corpus,
        method,
        ("numpy", "torch"),
        checkpoint=weights.digest,
        **_settings(request),
        genes_mapped=mapping.n_mapped,
        genes=len(corpus.genes),
        genes_ambiguous=mapping.n_ambiguous,
        slices={slug: asdict(facts[slug]) for slug in sorted(facts)},
    )
    return Embeddings(slices=dict(sorted(slices.items())), provenance=made_from)


def _settings(request: Request) -> dict[str, Any]:
    table = request.gene_table
    return {
        "seed": request.config.seed,
        "max_length": request.config.max_length,
        "gene_table": None if table is None else sha256_file(table),
    }


class _Embedder:
    """A model over the genes of one corpus."""

    def __init__(self, weights: ScgptWeights, mapping: GeneMapping, request: Request) -> None:
        self.weights = weights
        self.rows = mapping.rows
        self.request = request
        self.encoder = weights.encoder.to(request.device)

    def embed(self, whole: "WholeSlice") -> tuple[NDArray[np.float32], SliceFacts]:
        """Return (N, D) vectors of length 1 and what became of the counts."""
        known = known_counts(whole, self.rows)
        values, n_lost = known.counts.astype(np.float32), None
        if self.weights.means is not None:
            values, n_lost = spatial_values(known, self.weights.means)
        matrix = np.empty((known.sizes.size, self.weights.arguments.embsize), np.float32)
        done = 0
        for spots, tokens in self._batches(known, values, decode_barcodes(whole)):
            matrix[spots] = self._encode(tokens)
            done += len(spots)
            if self.request.progress:
                self.request.progress(done, known.sizes.size, whole.meta.slice)
        return matrix, SliceFacts(
            counts_mapped=round(known.share, 6),
            spots_without_gene=int(np.count_nonzero(known.sizes == 0)),
            spots_subsampled=int(np.count_nonzero(known.sizes >= self.request.config.max_length)),
            genes_without_mean=n_lost,
        )

    def _batches(
        self, known: KnownCounts, values: NDArray[np.float32], barcodes: tuple[str, ...]
    ) -> Iterator[tuple[NDArray[np.int64], TokenBatch]]:
        """Yield spot numbers and their tokens, spots of like length together."""
        config, arguments = self.request.config, self.weights.arguments
        order = np.argsort(known.sizes, kind="stable")
        for start in range(0, order.size, self.request.batch):
            spots = order[start : start + self.request.batch]
            found = []
            for spot in spots.tolist():
                own = np.s_[known.starts[spot] : known.starts[spot + 1]]
                found.append(
                    tokenize_spot(
                        known.genes[own],
                        values[own],
                        barcodes[spot],
                        seed=config.seed,
                        max_length=config.max_length,
                    )
                )
            yield (
                spots,
                pad_tokens(
                    found,
                    cls_token=self.weights.vocabulary[CLS],
                    pad_token=self.weights.vocabulary[arguments.pad_token],
                    pad_value=arguments.pad_value,
                ),
            )

    def _encode(self, tokens: TokenBatch) -> NDArray[np.float32]:
        device = self.request.device
        with torch.inference_mode():
            vectors = self.encoder(
                torch.from_numpy(tokens.genes).to(device),
                torch.from_numpy(tokens.values).to(device),
                torch.from_numpy(tokens.real).to(device),
            )
            unit = torch.nn.functional.normalize(vectors, dim=1)
        return np.asarray(unit.cpu().numpy(), np.float32)
