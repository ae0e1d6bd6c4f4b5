"""How a model's features become the vector of a spot, once all windows of a corpus are encoded.

Nothing here looks at a label. A recipe states it, checkpoints and released weights carry it, and
the untrained control is given the same; `sttrain embed` may be told otherwise. No torch is
imported.
"""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from stbuild.corpus.documents import Document


class InferenceConfig(Document):
    """How the vector of a spot is made; the default is the encoder's output as it is.

    The fields are applied in their order.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    layer: int | None = Field(None, ge=0)
    """Features after so many layers, 0 = the bare site tokens; without it the encoder's output."""
    neighbours: int = Field(0, ge=0, le=1024)
    """Average each vector with those of so many nearest spots of its slice."""
    centre: bool = False
    """Take off each slice's mean vector, so that slices and donors differ less as a whole."""
    components: int | None = Field(None, ge=1, le=4096)
    """Keep the first so many principal components over all spots of the corpus: no more say for
    dimensions that repeat each other."""
    whiten: float = Field(0.0, ge=0, le=1)
    """Divide each of those by its standard deviation to this power: 0 leaves them as they are,
    with 1 distances weigh all of them alike."""
    expression: int = Field(0, ge=0, le=4096)
    """Put at most so many principal components of expression itself beside them: log1p(CP10K) of
    the genes that the corpus shows, averaged over the same `neighbours`. Both parts are centred and
    brought to one variance as a whole, so that neither outweighs the other."""

    @model_validator(mode="after")
    def _whitens_components(self) -> Self:
        if self.whiten and self.components is None:
            msg = "inference.whiten scales components: say how many, inference.components"
            raise ValueError(msg)
        return self
