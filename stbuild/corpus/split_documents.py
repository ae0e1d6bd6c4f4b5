"""Evaluation splits (``splits/<task>@<version>.json``) as typed documents; no file is opened."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stbuild.corpus import names
from stbuild.corpus.documents import Count, Document, Slug


class SplitAssignment(Document):
    """One seed of an evaluation split."""

    seed: Count
    """Number of the seed, or of the group that is held out."""
    held_out: str | None = None
    """Donor or pair whose slices are the test; not written where no group is held out."""
    slices: dict[Slug, str]
    """One character per spot, in the order of ``barcodes``: ``T`` train, ``E`` test,
    ``b`` dropped by the buffer, ``x`` labelled but not scored, as its class is not in training,
    ``.`` unlabelled."""

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(handler(self), "held_out", None)


class SplitDocument(Document):
    """``splits/<task>@<version>.json``: who is train and who is test, by barcode."""

    format: Literal["stcorpus/split"] = names.FORMAT_SPLIT
    version: Literal[1] = names.VERSION
    task: str
    """Name of the task, such as ``block20``."""
    task_version: Annotated[int, Field(ge=1)]
    rule: str
    """The rule in words, with its numbers."""
    transductive: bool
    """Whether features of test spots may have been seen in training (no labels ever are)."""
    barcodes: dict[Slug, tuple[str, ...]]
    """Barcodes per slice, in grid order."""
    assignments: tuple[SplitAssignment, ...]
    undefined: dict[Slug, str] = Field(default_factory=dict)
    """Labelled slices for which the rule has no answer, with the reason; they stand in no
    assignment. Not written where there is none."""

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(handler(self), "undefined", {})

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for assignment in self.assignments:
            for slug, codes in assignment.slices.items():
                expected = len(self.barcodes.get(slug, ()))
                if len(codes) != expected or set(codes) - set("TEbx."):
                    msg = (
                        f"seed {assignment.seed}, slice {slug}: {len(codes)} codes for "
                        f"{expected} barcodes, or a code outside T, E, b, x and '.'"
                    )
                    raise ValueError(msg)
        if both := sorted(set(self.undefined) & set(self.barcodes)):
            msg = f"slice {both[0]} is undefined and has barcodes ({len(both)} such)"
            raise ValueError(msg)
        return self


def _without(dumped: dict[str, Any], key: str, default: object) -> dict[str, Any]:
    """Leave out a key that holds its default: documents without it keep their bytes."""
    return {name: value for name, value in dumped.items() if name != key or value != default}
