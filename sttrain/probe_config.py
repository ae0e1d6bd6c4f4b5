"""What decides the scores of a probe, given the corpus and the embeddings.

Every default stands here; the command line reads it from these fields.
"""

from typing import Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document
from sttrain.heads import Head, KnnHead, LogisticHead, MlpHead, Scaling

HeadName = Literal["knn", "knn-each", "logistic", "logistic-each", "mlp", "mlp-each"]
HEADS: Final[tuple[HeadName, ...]] = (
    "knn",
    "knn-each",
    "logistic",
    "logistic-each",
    "mlp",
    "mlp-each",
)


class ProbeConfig(Document):
    """What decides the scores, given the corpus and the embeddings."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    splits: tuple[str, ...] = ("paper20@1", "block20@1")
    """Evaluation splits of the corpus."""
    heads: tuple[HeadName, ...] = ("knn", "logistic", "logistic-each", "mlp", "mlp-each")
    """Classifiers: nearest neighbours, logistic regression, the paper's network. Features have one
    common scale, or with -each one of their own."""
    seeds: int | None = Field(None, ge=1)
    """Use the first so many seeds of every split; all of them without it."""
    held_out_seeds: int = Field(1, ge=1, le=100)
    """Fits with seeds of their own for every donor or pair that is held out, where a head draws."""
    reduce: tuple[int, ...] = ()
    """Judge every embedding also by its first so many principal components, fitted without labels."""
    k: int = Field(10, ge=1, le=1000)
    """Neighbours of the knn head."""
    mlp_epochs: int = Field(800, ge=1, le=100_000)
    """Epochs of the mlp head (800 in the paper)."""
    mlp_patience: int | None = Field(None, ge=1)
    """Stop the mlp head early after so many epochs without a better held-out loss."""
    mlp_steps: int | None = Field(None, ge=1)
    """Give the mlp head only so many whole epochs that this many steps are not exceeded."""

    def make_heads(self) -> tuple[Head, ...]:
        """Return the heads that are asked for, each once."""
        return tuple(self._make(name) for name in dict.fromkeys(self.heads))

    def _make(self, name: HeadName) -> Head:
        scaling: Scaling = "each" if name.endswith("-each") else "common"
        if name.startswith("knn"):
            return KnnHead(k=self.k, scaling=scaling)
        if name.startswith("logistic"):
            return LogisticHead(scaling=scaling)
        return MlpHead(
            epochs=self.mlp_epochs,
            patience=self.mlp_patience,
            max_steps=self.mlp_steps,
            scaling=scaling,
        )
