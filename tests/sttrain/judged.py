"""Small evaluation sets and splits in memory, and runs on disk, for the tests of evaluation."""

import numpy as np
import torch

from stbuild.corpus.documents import WholeMeta
from stbuild.corpus.samples import WholeSlice
from stbuild.corpus.split_documents import SplitAssignment, SplitDocument
from sttrain.embed.embeddings import Embeddings, SliceEmbedding, write_embeddings
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set
from sttrain.embed.splits import EvaluationSplit, assemble_split
from sttrain.judge.candidates import EmbeddingFile
from sttrain.judge.probe_config import ProbeConfig
from sttrain.judge.probes import probe_corpus
from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig
from sttrain.train.checkpoint import save_checkpoint

LABELS = ("core", "margin", "rim")


def make_whole(slug="one", side=12, n_genes=8, seed=0, labels=LABELS):
    """A square slice: each label is a band of columns, each band has its own genes."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(side * side), side)
    code = (col * len(labels) // side).astype(np.int16)
    rate = 1.0 + 4.0 * ((np.arange(n_genes)[None, :] % len(labels)) == code[:, None])
    counts = rng.poisson(rate).astype(np.uint16)
    counts[:, 0] += 1
    stored = counts > 0
    return WholeSlice(
        meta=WholeMeta(
            key=f"{slug}_slice",
            slice=slug,
            grid=(side, side),
            layout="square",
            unit="um",
            pitch=100.0,
            pitch_um=100.0,
            n_spots=side * side,
            n_genes=n_genes,
            dtype="<u2",
        ),
        indptr=np.concatenate([[0], np.cumsum(stored.sum(axis=1))]).astype(np.int64),
        indices=np.nonzero(stored)[1].astype(np.int32),
        data=counts[stored],
        genes=np.arange(n_genes, dtype=np.int32),
        totals=counts.sum(axis=1).astype(np.uint32),
        rows=row.astype(np.int32),
        cols=col.astype(np.int32),
        xy=np.stack([col, row], axis=1) * 100.0,
        labels=code,
        barcodes=np.asarray([f"{slug}-{i:04d}".encode() for i in range(side * side)]),
    )


def make_set(*wholes, labels=LABELS):
    """An evaluation set of some slices; one of 12 x 12 spots where none is given."""
    slices = {whole.meta.slice: whole for whole in wholes or (make_whole(),)}
    genes = next(iter(slices.values())).genes
    for whole in slices.values():
        genes = np.intersect1d(genes, whole.genes)
    return EvaluationSet(
        corpus_id="a" * 64, corpus="tiny", labels=labels, slices=slices, genes=genes
    )


def make_document(data: EvaluationSet, n_seeds=3, share=0.3, **changes) -> SplitDocument:
    """A random split of the labelled spots of every slice."""
    assignments = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        slices = {}
        for slug, whole in data.slices.items():
            codes = np.where(rng.random(whole.labels.size) < share, "T", "E")
            slices[slug] = "".join(np.where(whole.labels >= 0, codes, "."))
        assignments.append(SplitAssignment(seed=seed, slices=slices))
    fields = {
        "task": "random30",
        "task_version": 1,
        "rule": "a random part",
        "transductive": True,
        "barcodes": {slug: data.barcodes(slug) for slug in data.slices},
        "assignments": tuple(assignments),
    }
    return SplitDocument(**(fields | changes))


def make_split(data: EvaluationSet, document=None, n_seeds=None) -> EvaluationSplit:
    """The same, laid over the slices."""
    found = document or make_document(data)
    return assemble_split(found, data, name="random30@1", digest="b" * 64, n_seeds=n_seeds)


TINY = ModelConfig(width=16, layers=2, heads=2, ffn=16, decoder_width=8, decoder_heads=2)


def write_run(root, corpus, genes=None, order=None, pretext=None, config=TINY):
    """A run with an untrained and a later checkpoint; `order` permutes the rows of its genes."""
    genes = list(corpus.genes) if genes is None else genes
    for name, seed, steps in (("initial", 1, 0), ("step-00000004", 2, 4)):
        generator = torch.Generator().manual_seed(seed)
        model = MaskedAutoencoder(config, len(genes), generator, pretext)
        if order is not None:
            with torch.no_grad():
                model.table.copy_(model.table[order])
        save_checkpoint(
            root, name, model, None if steps == 0 else {"t": torch.zeros(1)},
            genes=tuple(genes if order is None else [genes[i] for i in order]),
            corpus_id="9" * 64, fingerprint="8" * 64, seed=seed, epoch=0, step=steps,
            batch=8,
            steps_done=steps,
        )  # fmt: skip
    return root


def write_vectors(corpus, path, seed=0, **provenance):
    """Random vectors of all spots of a corpus, named `ours`."""
    data = read_evaluation_set(corpus)
    rng = np.random.default_rng(seed)
    slices = {
        slug: SliceEmbedding(
            barcodes=data.barcodes(slug),
            matrix=rng.normal(size=(whole.meta.n_spots, 3)).astype(np.float32),
        )
        for slug, whole in data.slices.items()
    }
    write_embeddings(path, Embeddings(slices=slices, provenance=provenance))
    return EmbeddingFile(name="ours", path=path)


QUICK = ProbeConfig(splits=("paper20@1",), heads=("knn", "mlp"), seeds=2, mlp_epochs=2)
"""Probes that take next to no time."""


def probe(corpus, out, *methods, embeddings=(), config=QUICK, **options):
    return probe_corpus(
        corpus.root, out, methods=methods, embeddings=embeddings, config=config, **options
    )
