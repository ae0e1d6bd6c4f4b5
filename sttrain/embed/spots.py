"""One vector per measured spot from an encoder: windows, overlaps and gene draws averaged.

Slices are embedded one after the other, their windows in the order of their keys, sums in float64:
the vectors do not depend on the batch size beyond the rounding of the encoder itself, and on a CPU
not at all on the number of its cores: each encodes batches of its own.
Letters: B batch, P patch side, L = P * P sites, N spots of a slice, D features.
"""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import read_config
from stbuild.corpus.reader import open_corpus
from sttrain.embed.embeddings import Embeddings, SliceEmbedding, write_embeddings
from sttrain.embed.encoder_types import PerSlice, SiteEncoder, WholeEncoder
from sttrain.embed.evaluation import (
    name_labels,
    read_evaluation_set,
    read_patch,
    require_evaluation,
    require_sound,
)
from sttrain.embed.expression import expression_components
from sttrain.embed.members import spread_to_members
from sttrain.embed.outputs import refuse_others, require_place
from sttrain.embed.refine import refine_corpus, refine_slice
from sttrain.embed.sums import Coverage, SpotSums
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.model.inference import InferenceConfig
from sttrain.threads import map_ahead, one_core_threads

if TYPE_CHECKING:
    from stbuild.corpus.index import SampleIndex
    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import Patch, WholeSlice
    from sttrain.model.encoder_info import EncoderInfo

_PACKAGES: Final = ("numpy", "torch")
_MOST_CORES: Final = 16
"""Each holds what a batch needs: 200 MB for 32 patches of 512 genes."""


@dataclass(frozen=True, kw_only=True)
class EmbedOutcome:
    """Vectors, and how they came about."""

    embeddings: Embeddings
    coverage: tuple[Coverage, ...]


def embed_checkpoint(
    checkpoint: Path,
    root: Path,
    out: Path,
    *,
    untrained: bool = False,
    per_member: bool = False,
    replace_others: bool = False,
    batch: int = 32,
    inference: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> EmbedOutcome:
    """Embed an evaluation corpus with the encoder of a run and write the vectors.

    Parameters
    ----------
    checkpoint
        A run folder (its newest checkpoint), or one checkpoint of it.
    root
        Evaluation corpus; all its genes have to be known to the model.
    out
        File to write, ``.h5ad`` or ``.parquet``.
    untrained
        Use the run's weights before its first step.
    per_member
        Write one row per spot or cell of the source, where several share a site.
    replace_others
        Write over vectors of another model, corpus or setting.
    batch, progress
        As in `embed_corpus`.
    inference
        Values by name of :class:`InferenceConfig` that go before those of the run's recipe.
    device
        Torch device, or ``auto``: a GPU where there is one.
    say
        Hears of damaged checkpoints that were passed over.

    Raises
    ------
    BadUsageError
        Another suffix, a place inside a corpus, a layer that the model does not have, more
        components than there can be, a scale for components that nobody asks for.
    ConflictError
        Something else stands at `out`.
    BadInputError
        No checkpoint, a training corpus, genes unknown to the model, a spot without a vector.
    IntegrityError
        A damaged checkpoint or corpus.
    """
    before = require_place(out)
    from sttrain.embed.encoders import ModelEncoder
    from sttrain.release.encoder import load_encoder

    corpus = open_corpus(root)
    require_evaluation(corpus)
    model, info = load_encoder(checkpoint, initial=untrained, say=say)
    settings = choose_inference(info, inference or {})
    device, provenance = choose_device(device), _provenance(info)
    refuse_others(out, before, _made_from(provenance, corpus, settings), replace=replace_others)
    outcome = embed_corpus(
        corpus,
        ModelEncoder(model=model.to(device), seed=info.seed, rows=gene_rows(corpus, info.genes)),
        provenance=provenance,
        batch=batch,
        inference=settings,
        device=device,
        progress=progress,
    )
    if per_member:
        spread = spread_to_members(corpus, outcome.embeddings)
        outcome = replace(outcome, embeddings=spread)
    write_embeddings(out, outcome.embeddings)
    return outcome


def choose_inference(info: "EncoderInfo", changes: Mapping[str, Any]) -> InferenceConfig:
    """Return how vectors are made: as the model's recipe says, changed where asked.

    Raises
    ------
    BadUsageError
        A layer that the model does not have, or values that do not go together.
    """
    told = info.pretext.inference.model_dump() | dict(changes)
    found = read_config(InferenceConfig, told, "how vectors are made")
    if found.layer is not None and not 0 <= found.layer <= info.model.layers:
        what = f"layer {found.layer}; the encoder has 0 to {info.model.layers}"
        fix = "leave --layer out for the encoder's output"
        raise BadUsageError(Problem(code="V21", subject="--layer", what=what, fix=fix))
    return found


def choose_device(name: str) -> str:
    """Return a torch device by its name; ``auto`` is a GPU where there is one."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gene_rows(corpus: "Corpus", known: tuple[str, ...]) -> NDArray[np.int32]:
    """Return, for each gene of the corpus's vocabulary, its row in a model's gene table.

    Raises
    ------
    BadInputError
        Genes that the model does not know.
    """
    row = {gene: i for i, gene in enumerate(known)}
    unknown = [gene for gene in corpus.genes if gene not in row]
    if unknown:
        what = (
            f"{len(unknown):,} of {len(corpus.genes):,} genes are unknown to the model "
            f"(first: {', '.join(unknown[:3])})"
        )
        fix = "build it with `stbuild shard --cover STRIDE --vocabulary TRAINING_CORPUS`"
        subject = f"corpus '{corpus.document.name}'"
        raise BadInputError(
            Problem(code="V22", subject=subject, where=str(corpus.root), what=what, fix=fix)
        )
    return np.asarray([row[gene] for gene in corpus.genes], np.int32)


def _provenance(info: "EncoderInfo") -> dict[str, Any]:
    from sttrain import __version__

    versions = {"sttrain": __version__, "python": platform.python_version()}
    return {
        "checkpoint": info.digest,
        "steps": info.steps,
        "epoch": info.epoch,
        "seed": info.seed,
        "trained_on": info.corpus_id,
        "objective": info.pretext.objective,
        "versions": versions | {name: version(name) for name in _PACKAGES},
    }


def _made_from(
    provenance: Mapping[str, Any], corpus: "Corpus", inference: InferenceConfig
) -> dict[str, Any]:
    return {
        **provenance,
        "corpus": corpus.document.name,
        "corpus_id": corpus.document.corpus_id,
        "inference": inference.model_dump(mode="json"),
    }


def embed_corpus(
    corpus: "Corpus",
    encoder: SiteEncoder | PerSlice,
    *,
    provenance: Mapping[str, Any],
    genes: NDArray[np.int32] | None = None,
    batch: int = 32,
    inference: InferenceConfig | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> EmbedOutcome:
    """Embed every measured spot of an evaluation corpus.

    Parameters
    ----------
    corpus
        An evaluation corpus; its stride, gene draws and genes are what they are.
    encoder
        A model of windows, on `device`, or one that is made ready for each slice.
    provenance
        JSON values about the model; the corpus is added.
    genes
        Row in the model's gene table of each gene of the vocabulary; the same without it.
    batch
        Patches that are encoded together.
    inference
        How the features become vectors; as they are without it.
    device
        Torch device.
    progress
        Called with (patches done, patches in all, slice).

    Raises
    ------
    BadInputError
        A training corpus, a spot that no window covers, vectors that are not finite.
    BadUsageError
        More components than spots or features.
    IntegrityError
        A damaged sample, or one that points at spots which the slice does not have.
    """
    require_evaluation(corpus)
    slices: dict[str, SliceEmbedding] = {}
    coverage: list[Coverage] = []
    inference = inference or InferenceConfig()
    total = sum(s.n_samples for s in corpus.document.shards if s.kind == "patch")
    done, workers = 0, _cores(device)
    with one_core_threads(workers) as pool:
        beside = _expression(corpus, inference)  # first, so that a refusal costs nothing
        for split, index, whole, mine in _slices(corpus):
            slug, sums = whole.meta.slice, SpotSums(whole)
            here = encoder.for_slice(whole) if isinstance(encoder, PerSlice) else encoder
            size = batch
            if isinstance(here, WholeEncoder):
                mine, size = _first_of_draws(index, mine), 1
            encode = partial(_encode, here, rows=genes, layer=inference.layer, device=device)
            batches = _batches(corpus, split, index, mine, size)
            for patches, features in map_ahead(pool, encode, batches, workers):
                if progress:
                    progress(done, total, slug)
                if isinstance(here, WholeEncoder):
                    sums.add_all(features)
                else:
                    sums.add(patches, features)
                done += len(patches)
            matrix = sums.means()
            coverage.append(sums.coverage(len(mine)))
            slices[slug] = SliceEmbedding(
                barcodes=sums.barcodes,
                matrix=refine_slice(matrix, whole, inference),
                labels=name_labels(whole, corpus.document.labels),
            )
        subject = f"corpus '{corpus.document.name}'"
        slices = refine_corpus(slices, inference, subject, beside)
    made_from = _made_from(provenance, corpus, inference)
    return EmbedOutcome(
        embeddings=Embeddings(slices=dict(sorted(slices.items())), provenance=made_from),
        coverage=tuple(sorted(coverage, key=lambda found: found.slice)),
    )


def _expression(
    corpus: "Corpus", inference: InferenceConfig
) -> dict[str, NDArray[np.float32]] | None:
    """Return the components of expression that are asked for, (N, D) of every slice.

    Raises
    ------
    BadInputError
        No gene that all slices measure.
    """
    if not inference.expression:
        return None
    try:
        data = read_evaluation_set(corpus)
    except BadInputError as error:
        more = "; or do without expression beside the vectors: --expression 0"
        raise BadInputError(*(replace(p, fix=p.fix + more) for p in error.problems)) from error
    return expression_components(data, inference.neighbours, inference.expression)


def _cores(device: str) -> int:
    """Return how many batches are encoded at a time; a GPU takes one after the other."""
    import torch

    return min(torch.get_num_threads(), _MOST_CORES) if device == "cpu" else 1


def _slices(corpus: "Corpus") -> "Iterator[tuple[str, SampleIndex, WholeSlice, list[int]]]":
    """Yield every slice with its split, the index of that, and where its patches stand there."""
    for split in corpus.document.splits("slice"):
        index = corpus.index(split)
        positions = _positions_by_slice(index)
        for whole in corpus.whole_slices(split):
            require_sound(whole, len(corpus.document.labels))
            yield split, index, whole, positions.get(whole.meta.slice, [])


def _positions_by_slice(index: "SampleIndex") -> dict[str, list[int]]:
    """Return the positions of every slice's patches, in the order of their keys."""
    positions: dict[str, list[int]] = {}
    for i in sorted(range(len(index)), key=index.keys.__getitem__):
        positions.setdefault(index.slices[i], []).append(i)
    return positions


def _first_of_draws(index: "SampleIndex", positions: list[int]) -> list[int]:
    """Return one patch of each gene draw: all of a slice and draw hold the same genes."""
    first = {int(index.draw[i]): i for i in reversed(positions)}
    return [first[draw] for draw in sorted(first)]


def _batches(
    corpus: "Corpus", split: str, index: "SampleIndex", positions: list[int], size: int
) -> "Iterator[list[Patch]]":
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        yield [read_patch(corpus, split, index, i) for i in chosen]


def _encode(
    encoder: SiteEncoder | WholeEncoder,
    patches: "list[Patch]",
    *,
    rows: NDArray[np.int32] | None,
    layer: int | None,
    device: str,
) -> "tuple[list[Patch], NDArray[np.float32]]":
    """Return patches and their float32 features: (B, L, D), or (B, N, D) of all spots."""
    if isinstance(encoder, WholeEncoder):
        return patches, np.stack([encoder.encode_slice(p.genes, layer) for p in patches])
    import torch

    counts = np.stack([patch.counts.astype(np.int32) for patch in patches])
    genes = np.stack([patch.genes for patch in patches])
    if rows is not None:
        genes = np.where(genes >= 0, rows[genes], np.int32(-1))
    totals = np.stack([patch.totals.astype(np.int64) for patch in patches])
    with torch.inference_mode():
        features = encoder.encode(
            torch.from_numpy(counts).to(device),
            torch.from_numpy(genes).to(device),
            torch.from_numpy(totals).to(device),
            layer=layer,
        )
    return patches, np.asarray(features.float().cpu().numpy(), np.float32)
