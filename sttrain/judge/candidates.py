"""From what was asked for to methods that can be judged: names, embedding files, reductions.

Everything is read and checked before anything is fitted, and all problems are listed together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.errors import merge_errors
from sttrain.embed.embeddings import Embeddings, align_embeddings, read_embeddings, require_suffix
from sttrain.embed.evaluation import EvaluationSet
from sttrain.errors import BadUsageError, ConflictError, Problem, StError
from sttrain.judge.baselines import refusals
from sttrain.judge.methods import NAME, Method, Reduced, find_methods, is_taken


@dataclass(frozen=True, kw_only=True)
class EmbeddingFile:
    """An embedding to judge: its name in tables and its file."""

    name: str
    path: Path
    key: str | None = None
    """Name in ``obsm`` of an ``.h5ad``."""


@dataclass(frozen=True, kw_only=True)
class GivenVectors:
    """Vectors that are in memory, aligned with the corpus; a `sttrain.judge.methods.Method`."""

    name: str
    vectors: Embeddings

    @property
    def source(self) -> str:
        """Kind of method in results."""
        return "embedding"

    @property
    def checkpoint(self) -> str | None:
        """Digest of the checkpoint that the vectors say they came from."""
        found = self.vectors.provenance.get("checkpoint")
        return str(found) if found else None

    def identity(self, data: EvaluationSet) -> str:
        """Return the digest of the vectors."""
        del data
        return self.vectors.digest()

    def compute(self, data: EvaluationSet) -> Embeddings:
        """Return the vectors."""
        del data
        return self.vectors


def parse_embedding(text: str) -> EmbeddingFile:
    """Read ``NAME=FILE`` or ``NAME=FILE.h5ad:KEY``.

    Raises
    ------
    BadUsageError
        Another form, a name outside ``[a-z0-9-]``, the name of a method, a foreign suffix.
    """
    name, separator, place = text.partition("=")
    stem, colon, key = place.rpartition(":")
    file, wanted = (Path(stem), key) if colon and stem.endswith(".h5ad") else (Path(place), None)
    if not separator or not place or not NAME.fullmatch(name):
        what = "NAME=FILE was expected, the name of lower-case letters, digits and hyphens"
        raise BadUsageError(problem("V15", text, what, "such as ours=emb.h5ad"))
    if is_taken(name):
        what = f"'{name}' is the name of a baseline"
        raise BadUsageError(problem("V15", text, what, "give the embedding another name"))
    require_suffix(file)
    return EmbeddingFile(name=name, path=file, key=wanted)


def collect_methods(
    data: EvaluationSet,
    *,
    methods: Sequence[str | Method],
    embeddings: Sequence[EmbeddingFile],
    reduce: Sequence[int] = (),
) -> tuple[list[Method], list[str]]:
    """Return everything that is to be judged, checked against the corpus.

    Parameters
    ----------
    data
        The corpus. Embeddings have to hold all of its labelled slices, whichever are judged: their
        digest and their components depend on no split then.
    methods
        Names of the table, or objects of the protocol.
    embeddings
        Files of vectors.
    reduce
        Judge every embedding that is wider also by its first so many principal components.

    Returns
    -------
    tuple
        The methods, and the names of reductions that are left out because nothing would be reduced.

    Raises
    ------
    BadUsageError
        Unknown names, a name given twice, nothing to do, more components than the corpus has.
    BadInputError
        Embeddings that do not fit the corpus (all problems at once).
    """
    found = find_methods([method for method in methods if isinstance(method, str)])
    found += [method for method in methods if not isinstance(method, str)]
    names = [method.name for method in found] + [file.name for file in embeddings]
    if not names:
        fix = "such as --method raw, or --embedding ours=emb.h5ad"
        raise BadUsageError(problem("V03", "probe", "nothing to judge", fix))
    _require_once(names)
    if refused := refusals(found, data):
        raise BadUsageError(*refused.values())
    found += _read_all(embeddings, data)
    needless: list[str] = []
    for method in tuple(found) if reduce else ():
        if method.source == "baseline":
            continue
        width = method.compute(data).width
        reduced = [Reduced(method=method, components=d) for d in dict.fromkeys(reduce)]
        found += [one for one in reduced if one.components < width]
        needless += [one.name for one in reduced if one.components >= width]
    _require_once([method.name for method in found])
    return found, needless


def _require_once(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        what = f"{', '.join(twice)} given more than once"
        raise BadUsageError(problem("V15", "--embedding", what, "give every file its own name"))


def _read_all(files: Iterable[EmbeddingFile], data: EvaluationSet) -> list[Method]:
    """Read and check every file; the problems of all of them are reported together."""
    barcodes = {slug: data.barcodes(slug) for slug in data.labelled}
    found: list[Method] = []
    errors: list[StError] = []
    for file in files:
        try:
            vectors = read_embeddings(file.path, file.key)
            aligned = align_embeddings(vectors, barcodes, f"'{file.name}' ({file.path.name})")
            _require_same_corpus(file, aligned, data)
        except StError as error:
            errors.append(error)
            continue
        found.append(GivenVectors(name=file.name, vectors=aligned))
    if errors:
        raise merge_errors(errors)
    return found


def _require_same_corpus(file: EmbeddingFile, vectors: Embeddings, data: EvaluationSet) -> None:
    """Refuse vectors that say they were made from another corpus; foreign files say nothing."""
    made_from = vectors.provenance.get("corpus_id")
    if made_from is not None and made_from != data.corpus_id:
        what = f"made from corpus {str(made_from)[:12]}, this one is {data.corpus_id[:12]}"
        fix = "run `sttrain embed` on this corpus"
        raise ConflictError(problem("V10", f"embedding '{file.name}'", what, fix))


def problem(code: str, subject: str, what: str, fix: str) -> Problem:
    """Return a problem that stands in no file."""
    return Problem(code=code, subject=subject, what=what, fix=fix)
