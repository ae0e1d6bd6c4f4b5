"""One arm under one seed: train it, make its vectors, judge them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.embed.embeddings import Embeddings, SliceEmbedding
from sttrain.embed.encoders import ModelEncoder
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set, stack_slices
from sttrain.embed.expression import expression_components
from sttrain.embed.refine import refine_corpus, refine_slice
from sttrain.embed.splits import EvaluationSplit, read_split
from sttrain.embed.spots import embed_corpus, gene_rows
from sttrain.judge.heads import FitTask, Head, KnnHead, LogisticHead, MlpHead
from sttrain.judge.methods import find_methods
from sttrain.judge.metrics import score_predictions
from sttrain.model.inference import InferenceConfig
from sttrain.release.encoder import load_encoder
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.run import fit
from tests.benchmarks.recipe.data import Side
from tests.benchmarks.recipe.explained import explained_share
from tests.benchmarks.recipe.plan import ALONE, CHOSEN

SEEDS = 5
"""Seeds of the splits within donors."""
HEADS: Mapping[str, Head] = {"knn": KnnHead(), "logistic": LogisticHead()}
MLP: Mapping[str, Head] = {"mlp": MlpHead(max_steps=1000)}
"""As many seconds as everything else together: for some vectors alone."""
CONTROLS = (
    "coords", "raw", "pca10", "pca10-centred", "pca50", "pca50-centred",
    *(f"nbmean{k}-pca{d}{end}" for k in (6, 18, 36) for d in (10, 50) for end in ("", "-centred")),
)  # fmt: skip
MLP_CONTROLS = tuple(
    f"{name}{end}"
    for name in ("pca10", "nbmean18-pca10", "nbmean18-pca50")
    for end in ("", "-centred")
)
OPTIONS = FitOptions(threads=1, workers=1, logger=(), checkpoint_every=10**9)


@dataclass(frozen=True)
class Score:
    """How well some vectors do in one fold."""

    inference: str
    split: str
    fold: str
    head: str
    accuracy: float
    ari: float


@dataclass(frozen=True)
class Trained:
    """A run and what it took."""

    run: Path
    targets: int
    loss: float


def train(side: Side, work: Path, name: str, config: RunConfig) -> Trained:
    """Train an arm, unless that is done."""
    run = work / "runs" / f"{''.join(side.tested)}-{name}-{config.seed}"
    summary = fit(side.train, run, config, OPTIONS)
    return Trained(run, summary.targets, summary.loss or float("nan"))


def judge_run(
    side: Side,
    run: Path,
    inferences: Mapping[str, InferenceConfig],
    *,
    untrained: bool,
    mlp: bool,
) -> tuple[list[Score], float | None]:
    """Return the scores of a run under every inference, and what it explains of hidden sites."""
    corpus, _ = _opened(side.seen)
    model, info = load_encoder(run, initial=untrained)
    encoder = ModelEncoder(model=model, seed=info.seed, rows=gene_rows(corpus, info.genes))
    features: dict[int | None, Embeddings] = {}
    scores = []
    for name, inference in inferences.items():
        layer = inference.layer
        if layer not in features:
            bare = InferenceConfig(layer=layer)
            found = embed_corpus(corpus, encoder, provenance={}, inference=bare)
            features[layer] = found.embeddings
        vectors = _refine(features[layer], corpus.root, inference)
        scores += list(_judge(side, name, vectors, _heads(mlp=mlp and name in (ALONE, CHOSEN))))
    return scores, explained_share(corpus, model, encoder.rows, side.tested)


def _heads(*, mlp: bool) -> Mapping[str, Head]:
    return {**HEADS, **MLP} if mlp else HEADS


def judge_controls(side: Side, *, mlp: bool) -> Iterator[tuple[str, Score]]:
    """Yield the scores of every control, computed from the same slices."""
    _, data = _opened(side.seen)
    for method in find_methods(CONTROLS):
        vectors = method.compute(data)
        slices = {slug: part.matrix for slug, part in vectors.slices.items()}
        heads = _heads(mlp=mlp and method.name in MLP_CONTROLS)
        for score in _judge(side, "output", slices, heads):
            yield method.name, score


@cache
def _opened(root: Path) -> tuple[Corpus, EvaluationSet]:
    corpus = open_corpus(root)
    return corpus, read_evaluation_set(corpus)


@cache
def _split(root: Path, name: str) -> EvaluationSplit:
    corpus, data = _opened(root)
    return read_split(corpus, data, name, SEEDS)


@cache
def _expression(root: Path, neighbours: int, components: int) -> dict[str, np.ndarray]:
    return expression_components(_opened(root)[1], neighbours, components)


def _refine(found: Embeddings, root: Path, config: InferenceConfig) -> dict[str, np.ndarray]:
    data, beside = _opened(root)[1], None
    if config.expression:
        beside = _expression(root, config.neighbours, config.expression)
    slices: dict[str, SliceEmbedding] = {
        slug: replace(part, matrix=refine_slice(part.matrix, data.slices[slug], config))
        for slug, part in found.slices.items()
    }
    return {
        slug: part.matrix for slug, part in refine_corpus(slices, config, "arm", beside).items()
    }


def _judge(
    side: Side, inference: str, vectors: Mapping[str, np.ndarray], heads: Mapping[str, Head]
) -> Iterator[Score]:
    for root, name in (
        (side.own, "paper20@1"), (side.own, "block20@1"), (side.seen, "donor-out@1"),
    ):  # fmt: skip
        split = _split(root, name)
        features = stack_slices(vectors, split.slugs)
        folds = [f for f in split.folds if f.held_out is None or f.held_out in side.tested]
        tasks = [
            FitTask(
                features=features, labels=split.labels,
                train=split.training_spots(fold), seed=fold.seed,
            )
            for fold in folds
        ]  # fmt: skip
        for head_name, head in heads.items():
            for fold, said in zip(folds, _fit(head, tasks), strict=True):
                truth, predicted = split.labels[fold.test], said[fold.test]
                found = score_predictions(truth, predicted)
                yield Score(
                    inference, name.partition("@")[0], fold.held_out or str(fold.seed), head_name,
                    found.accuracy, float("nan") if found.ari_pred is None else found.ari_pred,
                )  # fmt: skip


def _fit(head: Head, tasks: Sequence[FitTask]) -> list[np.ndarray]:
    size = head.together(tasks)
    groups = [tasks[i : i + size] for i in range(0, len(tasks), size)]
    return [said.predicted for group in groups for said in head.fit(group)]
