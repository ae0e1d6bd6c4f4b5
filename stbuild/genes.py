"""The gene vocabulary of a corpus: sorted ids with a digest, fixed before any patch is cut."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import lines_digest
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.names import CORPUS_JSON
from stbuild.corpus.reader import open_corpus


@dataclass(frozen=True)
class Vocabulary:
    """Sorted unique gene ids; a gene index is a position in them."""

    genes: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over each id and a newline, in order."""
        return lines_digest(self.genes)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.genes)}

    def locate(self, genes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Find a slice's genes in the vocabulary.

        Parameters
        ----------
        genes
            (K,) sorted ids of the slice.

        Returns
        -------
        tuple
            (G,) positions in `genes` that are in the vocabulary, ascending, and their (G,)
            vocabulary indices, ascending too, since both lists are sorted alike.
        """
        position = self._position
        found = [(i, position[gene]) for i, gene in enumerate(genes) if gene in position]
        pairs = np.asarray(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1].astype(np.int32)


def union_vocabulary(per_slice: Iterable[Sequence[str]]) -> Vocabulary:
    """Return the union of the genes of all training slices."""
    return Vocabulary(tuple(sorted({gene for genes in per_slice for gene in genes})))


def measured_in(vocabulary: Vocabulary, per_slice: Iterable[Sequence[str]]) -> list[int]:
    """Return, for each gene of the vocabulary, how many slices measure it."""
    times = Counter(gene for genes in per_slice for gene in genes)
    return [times[gene] for gene in vocabulary.genes]


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary from a finished corpus, or from a text file with one gene id a line.

    Lines that start with ``#`` and a byte-order mark are passed over.

    Raises
    ------
    BadInputError
        No such file, no genes, or ids that stand twice.
    """
    if (path / CORPUS_JSON).is_file():
        return Vocabulary(tuple(open_corpus(path).genes))
    if not path.is_file():
        raise _refused(path, "neither a finished corpus nor a text file")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(path, f"not UTF-8 text: {error.reason}") from None
    lines = [line.strip() for line in text.splitlines()]
    genes = [line for line in lines if line and not line.startswith("#")]
    twice = sorted(gene for gene, times in Counter(genes).items() if times > 1)
    if twice or not genes:
        listed = ", ".join(twice[:5])
        raise _refused(path, f"{len(twice)} ids stand twice ({listed})" if twice else "no gene ids")
    return Vocabulary(tuple(sorted(genes)))


def _refused(path: Path, what: str) -> BadInputError:
    fix = "give a corpus folder, or a text file with one gene id a line, each once"
    return BadInputError(
        Problem(
            code="B075", subject=f"vocabulary '{path.name}'", where=str(path), what=what, fix=fix
        )
    )
