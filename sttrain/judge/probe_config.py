"""What decides the scores of probes, domains and filled regions, given corpus and embeddings.

Every default stands here; the command line reads it from these fields.
"""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document
from sttrain.judge.clustering import ALGORITHMS, Algorithm
from sttrain.judge.heads import Head, KnnHead, LogisticHead, MlpHead, Scaling

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
    """Use the first so many seeds of every split; all of them without it. Donors and pairs that are
    held out are always all judged."""
    held_out_seeds: int = Field(1, ge=1, le=100)
    """Fits with seeds of their own for every donor or pair that is held out, where a head draws."""
    reduce: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = ()
    """Judge every embedding also by its first so many principal components, fitted without
    labels."""
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


Number = Literal["true", "estimated"]


class ClusterConfig(Document):
    """What decides the domains, given the corpus and the vectors."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    algorithms: tuple[Algorithm, ...] = ALGORITHMS
    """Algorithms; leiden needs the packages leidenalg and igraph."""
    numbers: tuple[Number, ...] = ("true", "estimated")
    """Number of domains: as many as the slice has classes, or what the algorithm finds."""
    seeds: int = Field(10, ge=1, le=1000)
    """Runs with seeds of their own."""
    dims: int = Field(50, ge=2, le=4096)
    """Vectors that are wider are reduced to so many principal components of their slice."""


Side = Annotated[int, Field(ge=1, le=64)]


class ReconstructConfig(Document):
    """What decides the regions and the scores, given the corpus."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    windows: tuple[Side, ...] = (24,)
    """Sides of the window that a model is shown, in sites; each larger than every size."""
    sizes: tuple[Side, ...] = (4, 8, 10, 14, 16, 18)
    """Sides of the hidden square, in sites."""
    genes: int = Field(512, ge=1, le=65536)
    """Genes to predict: the most variable ones of the slice outside of the square."""
    repeats: int = Field(20, ge=1, le=10_000)
    """Regions of every slice, window and size."""
    seed: int = Field(0, ge=0)
    """Seed of the regions."""
