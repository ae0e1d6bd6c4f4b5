"""What stands in the ``config.json`` of released weights, and how its identity is computed.

No file is opened here. The document says everything that a model needs to be built and everything
that its card tells; the recipe is kept as the JSON that the run was configured with, so that a
later version of the trainer can still read the releases of this one.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import Count, Document, Sha256, Slug, SplitName, read_document
from stbuild.corpus.jsonio import load_strict
from sttrain.errors import BadInputError, IntegrityError, Problem
from sttrain.model.autoencoder import ModelConfig
from sttrain.model.pretext import Pretext

FORMAT: Final = "sttrain/model"
VERSION: Final = 1
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
GENES: Final = "genes.txt"
CARD: Final = "README.md"
SUMS: Final = "SHA256SUMS"
FILES: Final = (WEIGHTS, GENES, CARD, SUMS, CONFIG)
"""In the order in which they are written; the last makes the folder a release."""
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024

Kind = Literal["trained", "ema", "initial", "changed"]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Licence = Annotated[
    str,
    StringConstraints(
        max_length=100, pattern=r"^[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*$"
    ),
]
"""An SPDX expression without parentheses."""


class ReleasedWeights(Document):
    """``model.safetensors``."""

    bytes: Count
    sha256: Sha256
    n_parameters: Count
    """Trained numbers; the gene means and the mean depth, which are measured, come on top."""
    kind: Kind
    """The weights after the last step, their running means, those before the first step, or weights
    that were changed in memory after they had been loaded."""
    checkpoint: str
    """Name of the checkpoint of the run that they were taken from."""


class ReleasedGenes(Document):
    """``genes.txt``: one id a line; row i of the gene table belongs to line i."""

    n_genes: Annotated[int, Field(ge=1)]
    digest: Sha256
    """SHA-256 of the file; also that of the vocabulary of the training corpus."""
    n_silent: Count | None
    """Genes whose mean over the training patches is 0: not measured there, or never counted. None
    where the model keeps no means."""


class SliceTallies(Document):
    """What the training corpus says of the slices of the split: numbers of slices by name.

    The empty name stands for slices of which the corpus says nothing.
    """

    n_slices: Count
    n_spots: Count
    window: Count
    """Side of a patch, in sites."""
    genes_per_patch: Count
    species: dict[str, Count]
    tissue: dict[str, Count]
    platform: dict[str, Count]
    layout: dict[str, Count]
    licence: dict[str, Count]
    sources: Count
    """Files that the slices were read from."""


class TrainedOn(Document):
    """The corpus."""

    name: Slug
    corpus_id: Sha256
    split: SplitName
    n_patches: Count
    """Samples of an epoch: patches, or views of whole slices under objective `slice`."""
    slices: SliceTallies | None
    """None where the release was made without looking at the corpus."""


class Training(Document):
    """How far the run had come."""

    fingerprint: Sha256
    """Digest of the run's configuration and of the corpus id."""
    seed: Count
    epoch: Count
    """Epoch that the run stood at, from 0."""
    steps: Count
    """Optimizer steps taken; 0 = untrained."""
    steps_planned: Count
    """Steps of the whole run."""
    loss: float | None
    """Mean of the losses that the log holds of the last epoch's worth of steps."""
    n_losses: Count
    environment: dict[str, str]
    """Versions and processor at the start of the run."""


class ReleaseDocument(Document):
    """``config.json``: written last; its presence means that the release is whole."""

    format: Literal["sttrain/model"] = FORMAT
    version: Literal[1] = VERSION
    release_id: Sha256
    """SHA-256 of the canonical JSON of all the rest: identity of the release."""
    title: Title
    licence: Licence | None
    model: ModelConfig
    """Sizes and inputs; with `pretext` all that decides what the weights mean."""
    pretext: Pretext = Pretext()
    """What the model was asked: unit of training, loss, and what a site knew of others."""
    genes: ReleasedGenes
    weights: ReleasedWeights
    corpus: TrainedOn
    training: Training
    recipe: dict[str, Any]
    """The run's resolved configuration."""

    def compute_id(self) -> str:
        """Return what `release_id` has to be."""
        return sha256_json(self.model_dump(mode="json", exclude={"release_id"}))


def seal_document(**facts: Any) -> ReleaseDocument:  # noqa: ANN401 - the document types its fields
    """Return a release document with its identity."""
    draft = ReleaseDocument(**(facts | {"release_id": "0" * 64}))
    return draft.model_copy(update={"release_id": draft.compute_id()})


def parse_document(raw: bytes, where: str) -> ReleaseDocument:
    """Parse a ``config.json`` and check its identity.

    Raises
    ------
    BadInputError
        It is of another format, or of a version that is not known here; both are named.
    IntegrityError
        It is damaged or altered.
    """
    value = load_strict(raw, where, MAX_CONFIG_BYTES)
    told = value if isinstance(value, dict) else {}
    kind, number = told.get("format"), told.get("version")
    if kind != FORMAT or number != VERSION:
        come = f"format {kind!r:.60} version {number!r:.20}"
        fix = "give a folder that `sttrain release` wrote"
        if kind == FORMAT:
            fix = "upgrade this package: pip install -U stcorpus"
        raise BadInputError(
            Problem(
                code="T02",
                subject="released weights",
                where=where,
                what=f"{come}; this version reads format '{FORMAT}' version {VERSION}",
                fix=fix,
            )
        )
    document = read_document(ReleaseDocument, raw, where)
    try:
        found = document.compute_id()
    except ValueError as error:  # a number beyond floats, or half a character, in the recipe
        raise altered(where, f"what it says cannot be written as JSON: {error}") from error
    if found != document.release_id:
        raise altered(where, "its content is not the one that its release_id was computed of")
    return document


def altered(where: str, *problems: str) -> IntegrityError:
    """Return the error of a damaged release, with all that is wrong."""
    fix = "get the release again from its source; `sha256sum -c SHA256SUMS` names damaged files"
    return IntegrityError(
        *(
            Problem(code="T02", subject="released weights", where=where, what=what, fix=fix)
            for what in problems
        )
    )
