"""The published models that run here: what each needs, and how it is called.

One interface, a function from an evaluation corpus to embeddings; heavy modules are imported when
it is called. Letters: N spots.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document
from sttrain.embed.embeddings import Embeddings, write_embeddings
from sttrain.embed.outputs import refuse_others, require_place
from sttrain.errors import BadUsageError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.reader import Corpus

Progress = Callable[[int, int, str], None]
"""Called with (spots done, spots in all, slice)."""


class PublishedConfig(Document):
    """What decides the vectors, given the corpus and the weights."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every draw; scGPT's are keyed by it and the barcode."""
    max_length: int = Field(1200, ge=2, le=100_000)
    """Most tokens of a spot with <cls>; a random part of more is kept (scGPT, scGPT-spatial)."""
    min_mapped: float = Field(0.5, ge=0, le=1)
    """Least share of the corpus's genes that the model has to know (scGPT, scGPT-spatial)."""
    epochs: int | None = Field(None, ge=1, le=100_000)
    """Epochs of a method that is trained on the slices; its authors' number without it
    (STAGATE 1000, Novae at most 20)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a method is asked for, beside the corpus."""

    config: PublishedConfig
    weights: Path | None = None
    """Folder of published weights."""
    gene_table: Path | None = None
    """Pairs of Ensembl id and symbol, where the corpus has Ensembl ids."""
    batch: int = 32
    """Spots that are worked on together; it decides no vector."""
    device: str = "cpu"
    """Torch device."""
    progress: Progress | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of weights, of a method that takes them.

        Raises
        ------
        ValueError
            None was given; :meth:`PublishedMethod.embed` checks it.
        """
        if self.weights is None:
            msg = "no folder of weights"
            raise ValueError(msg)
        return self.weights


class EmbedFunction(Protocol):
    """How every method is called."""

    def __call__(self, corpus: "Corpus", request: Request) -> Embeddings:
        """Return one vector per observed site of every slice."""
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedMethod:
    """A published model that runs here."""

    name: str
    summary: str
    module: str
    """Where its function ``embed_<name>`` stands."""
    weights: Literal["required", "optional", "none"]
    extra: str | None
    """Extra of this package that has to be installed for it."""
    licence: str
    """Of code and weights, as their authors state it."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be at hand: ``weights``, ``extra:NAME``."""
        found = ("weights",) if self.weights == "required" else ()
        return found + ((f"extra:{self.extra}",) if self.extra else ())

    def embed(self, corpus: "Corpus", request: Request) -> Embeddings:
        """Return one vector per observed site of every slice of an evaluation corpus.

        Raises
        ------
        BadUsageError
            No weights for a model that needs them, or weights for one that takes none.
        BadInputError
            Weights or a corpus that it cannot use.
        PlatformError
            A package is missing.
        """
        given = request.weights is not None
        if self.weights == ("none" if given else "required"):
            what = "it takes no weights" if given else "it needs a folder of published weights"
            fix = "leave --weights out" if given else "give --weights DIR; see manifests/methods/"
            raise BadUsageError(
                Problem(code="V03", subject=f"method '{self.name}'", what=what, fix=fix)
            )
        function: EmbedFunction = getattr(
            import_module(self.module), f"embed_{self.name.replace('-', '_')}"
        )
        return function(corpus, request)


METHODS: Final[Mapping[str, PublishedMethod]] = {
    method.name: method
    for method in (
        PublishedMethod(
            name="scgpt",
            summary="scGPT, read natively: <cls> of the whole-human model or another",
            module="sttrain.adapters.scgpt",
            weights="required",
            extra=None,
            licence="MIT",
        ),
        PublishedMethod(
            name="scgpt-spatial",
            summary="scGPT-spatial, read natively; coordinates are not used, as upstream",
            module="sttrain.adapters.scgpt",
            weights="required",
            extra=None,
            licence="MIT",
        ),
        PublishedMethod(
            name="stagate",
            summary="STAGATE, trained on each slice by itself",
            module="sttrain.adapters.stagate",
            weights="none",
            extra="stagate",
            licence="MIT",
        ),
        PublishedMethod(
            name="novae",
            summary="Novae, zero-shot with --weights, else trained on the slices together",
            module="sttrain.adapters.novae",
            weights="optional",
            extra="novae",
            licence="BSD-3-Clause",
        ),
    )
}


def find_method(name: str) -> PublishedMethod:
    """Return the method of a name.

    Raises
    ------
    BadUsageError
        There is none; the nearest is suggested.
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    fix = f"{hint}methods: {', '.join(METHODS)}; files of others: manifests/methods/README.md"
    what = "no published model of this name runs here"
    raise BadUsageError(Problem(code="V03", subject=f"method '{name}'", what=what, fix=fix))


def embed_published(
    name: str,
    root: Path,
    out: Path,
    request: Request,
    *,
    per_member: bool = False,
    replace_others: bool = False,
) -> Embeddings:
    """Embed an evaluation corpus with a published model and write the vectors.

    Parameters
    ----------
    name
        Name of the method.
    root
        Evaluation corpus.
    out
        File to write, ``.h5ad`` or ``.parquet``.
    request
        Weights, settings and device; ``auto`` is a GPU where there is one.
    per_member
        Write one row per spot or cell of the source, where several share a site.
    replace_others
        Write over vectors of another model, corpus or setting.

    Raises
    ------
    BadUsageError
        An unknown method, another suffix, weights that are missing or superfluous.
    BadInputError
        Weights or a corpus that the method cannot use.
    ConflictError
        Something else stands at `out`.
    IntegrityError
        A damaged corpus.
    PlatformError
        A package is missing.
    """
    from stbuild.corpus.reader import open_corpus
    from sttrain.embed.evaluation import require_evaluation
    from sttrain.embed.members import spread_to_members
    from sttrain.embed.spots import choose_device

    before = require_place(out)
    method = find_method(name)
    corpus = open_corpus(root)
    require_evaluation(corpus)
    embeddings = method.embed(corpus, replace(request, device=choose_device(request.device)))
    if per_member:
        embeddings = spread_to_members(corpus, embeddings)
    refuse_others(out, before, embeddings.provenance, replace=replace_others)
    write_embeddings(out, embeddings)
    return embeddings


def describe_vectors(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a method did with the genes and the slices of a corpus, a line each."""
    if "genes_mapped" in provenance:
        known, total = provenance["genes_mapped"], provenance["genes"]
        yield (
            f"genes: {known:,} of {total:,} known to {provenance['method']} ({known / total:.1%}), "
            f"{provenance['genes_ambiguous']:,} ambiguous and left out"
        )
    for slug, facts in provenance.get("slices", {}).items():
        told = (f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
        yield f"{slug}: {', '.join(told)}"


def describe_origin(
    corpus: "Corpus",
    method: str,
    packages: Sequence[str],
    **facts: Any,  # noqa: ANN401 - JSON
) -> dict[str, Any]:
    """Return what the provenance of every method holds: JSON without times, hosts or paths."""
    import platform

    from sttrain import __version__

    versions = {"sttrain": __version__, "python": platform.python_version()}
    return {
        "method": method,
        "corpus": corpus.document.name,
        "corpus_id": corpus.document.corpus_id,
        "versions": versions | {package: version(package) for package in packages},
        **facts,
    }
