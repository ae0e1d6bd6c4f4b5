"""Size and kind of the masked autoencoder. No torch is imported."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from stbuild.corpus.documents import Document


class ModelConfig(Document):
    """Size and kind of the masked autoencoder; the defaults are the paper's."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    width: int = Field(256, ge=8, le=8192)
    """Token width D, also the width of the gene table."""
    layers: int = Field(6, ge=1, le=256)
    """Transformer layers of the encoder."""
    heads: int = Field(8, ge=1, le=256)
    """Attention heads of the encoder; must divide `width`."""
    ffn: int = Field(1024, ge=1, le=65536)
    """Hidden width of the encoder's feed-forward layers."""
    decoder_width: int = Field(128, ge=8, le=8192)
    """Token width of the decoder."""
    decoder_layers: int = Field(2, ge=1, le=256)
    """Transformer layers of the decoder."""
    decoder_heads: int = Field(8, ge=1, le=256)
    """Attention heads of the decoder; must divide `decoder_width`."""
    decoder_ffn: int = Field(512, ge=1, le=65536)
    """Hidden width of the decoder's feed-forward layers."""
    library_size: bool = True
    """Whether a token also carries the logarithm of its site's library size."""
    token_scale: float = Field(0.3, gt=0, le=10)
    """Size at which site tokens start. Small ones are soon outweighed by what attention gathers
    around a site, so that features speak of the neighbourhood more than of the site's own noise."""
    position: bool = False
    """Whether a token of the encoder also carries its place in the window."""
    local: bool = True
    """Whether attention falls with distance, by a learnt slope per head that starts between 1.5
    and 0.05 a site. Relative, so that it says the same wherever the window was cropped."""
    centre: bool = True
    """Whether values are differences from the gene's mean over the training corpus, on the way in
    and on the way out; a token then depends little on which genes were drawn."""
    centre_by: Literal["corpus", "slice"] = "corpus"
    """Whose mean that is: the training corpus's, or that of the slice that a site lies in, which
    takes out what sets slices and donors apart as a whole."""

    @model_validator(mode="after")
    def _divisible(self) -> "ModelConfig":
        for name, width, heads in (
            ("width", self.width, self.heads),
            ("decoder_width", self.decoder_width, self.decoder_heads),
        ):
            if width % heads or width % 4:
                msg = f"{name} {width} is not divisible by its {heads} heads and by 4"
                raise ValueError(msg)
        if self.centre_by == "slice" and not self.centre:
            msg = "centre_by is 'slice', but centre is false: nothing would be centred"
            raise ValueError(msg)
        return self
