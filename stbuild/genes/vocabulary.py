"""The gene vocabulary of a corpus: ids with a digest, fixed before any patch is cut.

Sorted; where a corpus is extended, new ids are sorted among themselves and appended.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import lines_digest
from stbuild.corpus.errors import BadInputError, BadUsageError, Problem
from stbuild.corpus.names import CORPUS_JSON
from stbuild.corpus.reader import open_corpus
from stbuild.genes.ids import describe_genes


@dataclass(frozen=True)
class Vocabulary:
    """Unique gene ids, sorted within each generation; a gene index is a position in them."""

    genes: tuple[str, ...]
    earlier: tuple[int, ...] = ()
    """Genes after each generation but the last."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Genes after each generation."""
        return (*self.earlier, len(self.genes))

    def first(self, generation: int) -> "Vocabulary":
        """Return what the vocabulary was after a generation."""
        if generation == len(self.earlier):
            return self
        return Vocabulary(self.genes[: self.sizes[generation]], self.sizes[:generation])

    def grow(self, genes: Iterable[str]) -> "Vocabulary":
        """Return this vocabulary with the new ones among `genes` appended, sorted."""
        new = sorted(set(genes) - set(self.genes))
        return Vocabulary((*self.genes, *new), self.sizes)

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
            (G,) positions in `genes` that are in the vocabulary, and their (G,) vocabulary
            indices, ascending. Within a generation the positions ascend too, since both lists are
            sorted alike.
        """
        place = self._position.get
        found = np.fromiter((place(gene, -1) for gene in genes), np.int64, len(genes))
        order = np.argsort(found, kind="stable")
        order = order[np.count_nonzero(found < 0) :]
        return order, found[order].astype(np.int32)


def union_vocabulary(per_slice: Iterable[Sequence[str]]) -> Vocabulary:
    """Return the union of the genes of all training slices."""
    return Vocabulary(tuple(sorted({gene for genes in per_slice for gene in genes})))


def choose_vocabulary(per_slice: Sequence[Sequence[str]], rule: str) -> Vocabulary:
    """Choose the genes of a corpus from those of its training slices.

    Parameters
    ----------
    per_slice
        Ids that each slice measures, each list without repeats.
    rule
        ``union``; ``intersection``; or ``share:X``, genes that at least a share X of the slices
        measure, with X above 0 and at most 1.

    Raises
    ------
    BadUsageError
        Another rule.
    BadInputError
        No gene is left.
    """
    times = Counter(gene for genes in per_slice for gene in genes)
    share = share_of(rule)
    least = max(1, math.ceil(share * len(per_slice) - 1e-9))
    kept = tuple(sorted(gene for gene, n in times.items() if n >= least))
    if not kept:
        what = f"no gene is measured in {least:,} of {len(per_slice):,} slices"
        fix = "use --vocabulary union, or map the ids to one kind with compact --gene-ids"
        raise BadInputError(Problem(code="B068", subject="vocabulary", what=what, fix=fix))
    return Vocabulary(kept)


def share_of(rule: str) -> float:
    """Return the least share of the slices that a rule asks to measure a gene.

    Raises
    ------
    BadUsageError
        It is no rule.
    """
    if rule in ("union", "intersection"):
        return float(rule == "intersection")
    match = _SHARE.fullmatch(rule)
    if not match or not 0 < float(match.group(1)) <= 1:
        what = f"got {rule!r}"
        fix = "give union, intersection, share:X with X above 0 and at most 1, or a file or corpus"
        raise BadUsageError(Problem(code="B111", subject="--vocabulary", what=what, fix=fix))
    return float(match.group(1))


def is_rule(text: str) -> bool:
    """Tell whether a --vocabulary is a rule and no path."""
    return text in ("union", "intersection") or text.startswith("share:")


def check_kinds(
    per_slice: Mapping[str, Sequence[str]], *, mixed_ids: bool, mixed_species: bool
) -> list[Problem]:
    """Return what speaks against slices sharing a vocabulary: other ids, versions or species.

    Parameters
    ----------
    per_slice
        Gene ids of each slice.
    mixed_ids
        Allow other ids, and ids with versions beside ids without.
    mixed_species
        Allow other species.
    """
    facts = {name: describe_genes(genes) for name, genes in per_slice.items()}
    by_kind = _names_by({name: fact.kind for name, fact in facts.items()})
    problems = []
    if len(by_kind) > 1 and not mixed_ids:
        what = "id types differ: " + ", ".join(
            f"{_KINDS[kind]} in {_say(names)}" for kind, names in sorted(by_kind.items())
        )
        fix = "map them with `stbuild compact --gene-ids ensembl` (or symbol), or pass --mixed-ids"
        problems.append(Problem(code="B068", subject="genes", what=what, fix=fix))
    by_version = _names_by(
        {
            name: "with" if 2 * fact.n_versioned > fact.n_ensembl else "without"
            for name, fact in facts.items()
            if fact.kind != "symbol"
        }
    )
    if len(by_version) > 1 and not mixed_ids:
        what = "versions of Ensembl ids differ: " + ", ".join(
            f"{kind} versions in {_say(names)}" for kind, names in sorted(by_version.items())
        )
        fix = "cut them off with `stbuild compact --strip-version`, or pass --mixed-ids"
        problems.append(Problem(code="B069", subject="genes", what=what, fix=fix))
    known = {name: " and ".join(fact.species) for name, fact in facts.items() if fact.species}
    by_species = _names_by(known)
    if len(by_species) > 1 and not mixed_species:
        what = "species differ: " + ", ".join(
            f"{species} in {_say(names)}" for species, names in sorted(by_species.items())
        )
        fix = "build one corpus a species, or pass --mixed-species"
        problems.append(Problem(code="B068", subject="genes", what=what, fix=fix))
    return problems


_KINDS = {"ensembl": "Ensembl ids", "symbol": "symbols", "mixed": "both"}
_SHARE = re.compile(r"share:(\d*\.?\d+)")


def _names_by(values: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def _say(names: Sequence[str]) -> str:
    return f"{len(names):,} slices ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


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


def require_measured(
    vocabulary: Vocabulary, per_slice: Iterable[Sequence[str]], path: Path
) -> None:
    """Refuse a list of genes of which no slice measures some: headers, typing errors, other ids.

    The genes of a corpus are taken as they are: slices that are judged may lack some.

    Raises
    ------
    BadInputError
        B075, with the first of them.
    """
    if (path / CORPUS_JSON).is_file():
        return
    measured = {gene for genes in per_slice for gene in genes}
    if unknown := [gene for gene in vocabulary.genes if gene not in measured]:
        listed = ", ".join(unknown[:5])
        what = f"{len(unknown):,} of {len(vocabulary.genes):,} ids are in no slice ({listed})"
        fix = "take them off the list; or give a corpus, whose genes are taken as they are"
        raise _refused(path, what, fix)


_LIST_FIX: Final = "give a corpus folder, or a text file with one gene id a line, each once"


def _refused(path: Path, what: str, fix: str = _LIST_FIX) -> BadInputError:
    return BadInputError(
        Problem(
            code="B075", subject=f"vocabulary '{path.name}'", where=str(path), what=what, fix=fix
        )
    )
