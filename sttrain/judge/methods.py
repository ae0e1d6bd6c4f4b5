"""What can be judged: one protocol, and a table of kinds of names.

A method turns the slices of an evaluation corpus into one vector per spot, without labels. Controls
are named by a small grammar that is parsed in one place; whatever else makes vectors (a file, a
checkpoint, a published model) is an object of the same protocol, or one more row of the table.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.errors import merge_errors
from sttrain.embed.embeddings import Embeddings, SliceEmbedding
from sttrain.embed.evaluation import EvaluationSet
from sttrain.embed.projection import principal_components
from sttrain.errors import BadUsageError, Problem

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""Names of methods: they stand in tables, file names and pages, so no other letter is let in."""


class Method(Protocol):
    """Something that is judged.

    ``compute`` has to be a function of the corpus alone: no label, no clock, no global stream.
    Vectors of width 0 stand for "no features"; the majority class is predicted from them.
    """

    @property
    def name(self) -> str:
        """Name in tables, of the form `NAME`."""
        ...

    @property
    def source(self) -> str:
        """Kind of method in results: ``baseline`` or ``embedding``."""
        ...

    @property
    def checkpoint(self) -> str | None:
        """Digest of the weights, where there are any and they are known."""
        ...

    def identity(self, data: EvaluationSet) -> str:
        """Return a digest of all that decides the vectors; stored results are known by it."""
        ...

    def compute(self, data: EvaluationSet) -> Embeddings:
        """Return a vector for every spot of every judged slice."""
        ...


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of names that `find_method` knows."""

    grammar: str
    """How its names are written, for people, such as ``pcaD``."""
    what: str
    """What the methods are, in half a sentence."""
    examples: tuple[str, ...]
    """Names of it, for help pages and as suggestions."""
    pattern: re.Pattern[str]
    """The whole name."""
    make: Callable[[re.Match[str]], Method]
    """From a matched name to the method."""


def families() -> tuple[Family, ...]:
    """Return the table of all kinds of names, controls first."""
    from sttrain.judge.baselines import FAMILIES

    return FAMILIES


def find_method(name: str) -> Method:
    """Return the method of a name.

    Raises
    ------
    BadUsageError
        No kind of method is named so; the nearest known name is suggested.
    """
    table = families()
    for family in table:
        if match := family.pattern.fullmatch(name):
            return family.make(match)
    examples = [example for family in table for example in family.examples]
    near = get_close_matches(name, examples, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise BadUsageError(
        Problem(
            code="V03",
            subject=f"method '{name}'",
            where="--method",
            what="no method of this name",
            fix=f"{hint}methods: {', '.join(family.grammar for family in table)} "
            "(K, D are numbers); vectors from a file are given as --embedding NAME=FILE.h5ad",
        )
    )


def find_methods(names: Sequence[str]) -> list[Method]:
    """Return the methods of several names, each once, in order.

    Raises
    ------
    BadUsageError
        All unknown names at once.
    """
    found: list[Method] = []
    errors: list[BadUsageError] = []
    for name in dict.fromkeys(names):
        try:
            found.append(find_method(name))
        except BadUsageError as error:
            errors.append(error)
    if errors:
        raise merge_errors(errors)
    return found


def is_taken(name: str) -> bool:
    """Return whether a name is that of a method of the table."""
    return any(family.pattern.fullmatch(name) for family in families())


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """The first principal components of another method's vectors, fitted on all spots, no labels.

    So that no method wins by the number of its dimensions.
    """

    method: Method
    components: int

    @property
    def name(self) -> str:
        """Name of the method, and how many components."""
        return f"{self.method.name}-pca{self.components}"

    @property
    def source(self) -> str:
        """That of the method."""
        return self.method.source

    @property
    def checkpoint(self) -> str | None:
        """That of the method."""
        return self.method.checkpoint

    def identity(self, data: EvaluationSet) -> str:
        """Return the digest of the method's identity and the number of components."""
        return sha256_json({"of": self.method.identity(data), "components": self.components})

    def compute(self, data: EvaluationSet) -> Embeddings:
        """Return (N, components) vectors.

        Raises
        ------
        BadUsageError
            The vectors have fewer dimensions.
        """
        found = self.method.compute(data)
        tables = {slug: part.matrix for slug, part in found.slices.items()}
        return pack(
            data,
            principal_components(tables, self.components, f"method '{self.name}'"),
            {**found.provenance, "components": self.components},
        )


def find_reduction(name: str, methods: Iterable[Method]) -> Reduced | None:
    """Return the reduction of a name such as ``ours-pca50``, where its method is among some."""
    parent, separator, components = name.rpartition("-pca")
    if not separator or not components.isdecimal():
        return None
    of = (m for m in methods if m.name == parent and m.source != "baseline")
    return next((Reduced(method=method, components=int(components)) for method in of), None)


def pack(
    data: EvaluationSet,
    matrices: Mapping[str, NDArray[np.float32]],
    provenance: Mapping[str, object],
) -> Embeddings:
    """Return matrices (N, D) of some slices as embeddings, with the barcodes of the corpus."""
    return Embeddings(
        slices={
            slug: SliceEmbedding(barcodes=data.barcodes(slug), matrix=matrix)
            for slug, matrix in matrices.items()
        },
        provenance=dict(provenance),
    )
