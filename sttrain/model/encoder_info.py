"""What an encoder is, wherever it is loaded from."""

from dataclasses import dataclass

from stbuild.corpus.digests import lines_digest, sha256_json
from sttrain.model.config import ModelConfig
from sttrain.model.pretext import Pretext


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Where an encoder comes from and what it needs."""

    model: ModelConfig
    pretext: Pretext
    """What it was asked, and so how it is used."""
    genes: tuple[str, ...]
    """The vocabulary that gene indices point into."""
    corpus_id: str
    """The corpus that it was trained on."""
    seed: int
    epoch: int
    """Epochs begun."""
    steps: int
    """Optimizer steps taken; 0 = untrained."""
    digest: str
    """SHA-256 of the weights file."""
    name: str
    """Name of the checkpoint, such as ``initial`` or ``step-00000400``."""

    @property
    def identity(self) -> str:
        """Digest of all that decides the answers: the same weights may be asked in other ways."""
        return sha256_json(
            {
                "weights": self.digest,
                "model": self.model.model_dump(mode="json"),
                "pretext": self.pretext.model_dump(mode="json"),
                "genes": lines_digest(self.genes),
            }
        )
