"""The pretext task: what one training sample is, and what is asked of it (Eqs. 2, 3, 4 and 8).

Everything that a model needs to be built and used again besides its sizes; checkpoints and released
weights carry it. No torch is imported.
"""

from typing import Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document
from sttrain.model.inference import InferenceConfig

Objective = Literal["patch", "spot", "multispot", "slice"]
Loss = Literal["mse", "poisson", "nb"]
COUNT_LOSSES: Final[tuple[Loss, ...]] = ("poisson", "nb")


class ContextConfig(Document):
    """What a site knows of others under `multispot` and `slice`; `patch` and `spot` need none."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    neighbours: int = Field(16, ge=1, le=4096)
    """Nearest observed sites of the window that make a site's embedding under `multispot`, itself
    excluded. Those that tie for the last places share them."""
    weights: Literal["uniform", "softmax"] = "uniform"
    """Weights of those neighbours (alpha of Eq. 3): equal, or softmax(-distance / tau)."""
    tau: float = Field(1.0, gt=0, le=1000)
    """Scale of `softmax`, in sites."""
    domains: int = Field(16, ge=1, le=1024)
    """Macro-domains of a slice under `slice`, by k-means; slices of fewer spots have fewer."""
    domain_position: float = Field(0.5, ge=0, le=1)
    """Share of the position in the distances of k-means; the rest is that of the principal
    components of the expression. Each counts with unit variance."""
    domain_components: int = Field(16, ge=1, le=256)
    """Principal components that k-means is given."""
    slice_spots: int = Field(4096, ge=1, le=1_000_000)
    """Most spots of a slice in one training sample; of larger slices so many are drawn."""


class Pretext(Document):
    """What a model was asked, and so how it is used."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    objective: Objective = "patch"
    """The unit of training."""
    loss: Loss = "mse"
    """What is predicted: log1p(CP10K), or the rate of counts."""
    context: ContextConfig = ContextConfig()
    """What a site knows of others."""
    inference: InferenceConfig = InferenceConfig()
    """How its features become vectors."""

    @property
    def counts(self) -> bool:
        """Whether the model predicts rates of counts."""
        return self.loss in COUNT_LOSSES
