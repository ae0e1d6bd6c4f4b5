"""What decides the scores of a probe, given the corpus and the embeddings.

Every default stands here; the command line reads it from these fields.
"""

from typing import Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document
from sttrain.heads import Head, KnnHead, MlpHead

HEADS: Final = ("knn", "mlp")


class ProbeConfig(Document):
    """What decides the scores, given the corpus and the embeddings."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    splits: tuple[str, ...] = ("paper20@1", "block20@1")
    """Evaluation splits of the corpus."""
    heads: tuple[Literal["knn", "mlp"], ...] = HEADS
    """Classifiers: nearest neighbours, and the paper's network."""
    seeds: int | None = Field(None, ge=1)
    """Use the first so many seeds of every split; all of them without it."""
    k: int = Field(10, ge=1, le=1000)
    """Neighbours of the knn head."""
    mlp_epochs: int = Field(800, ge=1, le=100_000)
    """Epochs of the mlp head (800 in the paper)."""
    mlp_patience: int | None = Field(None, ge=1)
    """Stop the mlp head early after so many epochs without a better held-out loss."""

    def make_heads(self) -> tuple[Head, ...]:
        """Return the heads that are asked for, each once."""
        made: dict[str, Head] = {
            "knn": KnnHead(k=self.k),
            "mlp": MlpHead(epochs=self.mlp_epochs, patience=self.mlp_patience),
        }
        return tuple(made[name] for name in dict.fromkeys(self.heads))
