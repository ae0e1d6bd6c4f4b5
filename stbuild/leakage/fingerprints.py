"""Sections as they are compared: for each, the counts of its most abundant genes.

A section is read once, reduced and released, so memory is bounded by spots x a few hundred genes.
Coordinates and barcodes are not looked at: turning, mirroring, cropping, shuffling or renaming
spots changes nothing here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from stbuild.grid.grids import Box, GridMeta, Region

PANEL: Final = 512
"""Genes that two sections are compared on. With it, sums of products of 8-bit features stay below
2^24 and are exact in float32, whatever the order in which a BLAS adds them."""

_KEPT: Final = 768
"""Genes that a section keeps for each gene list: of two sections' most abundant genes some differ,
and 512 in common are wanted."""

_VERSIONED: Final = re.compile(r"^(ENS[A-Z]*[0-9]{11})\.[0-9]+$")


class GridLike(Protocol):
    """A grid in memory or on disk: ``Grid`` or ``StoredGrid`` of :mod:`stbuild.grid`."""

    @property
    def meta(self) -> GridMeta:
        """Attributes."""
        ...

    @property
    def genes(self) -> Sequence[str]:
        """(K,) gene ids."""
        ...

    def whole_box(self) -> Box:
        """Return the box of all cells."""
        ...

    def cells(self, box: Box) -> Region:
        """Read the observed spots of a part."""
        ...


@dataclass(frozen=True, kw_only=True)
class Section:
    """One slice: whose it is, on which side it stands, and how its counts are read."""

    corpus: str
    slug: str
    split: str
    donor: str | None
    section: str | None
    pair: str | None
    counts_digest: str
    genes: Sequence[str]
    """(K,) gene ids."""
    load: Callable[[], csr_array]
    """Reads the (N, K) counts."""

    @property
    def name(self) -> str:
        """``corpus/slug``."""
        return f"{self.corpus}/{self.slug}"


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The reduced counts of a section. Letters: N spots, G genes kept."""

    genes: NDArray[np.int64]
    """(G,) numbers of the genes within the collection, ascending."""
    counts: NDArray[np.uint16]
    """(N, G) counts, 65535 at most: only for comparing."""
    totals: NDArray[np.int64]
    """(G,) sum over all spots."""


def gather_sections(
    grids: Sequence[GridLike],
    splits: Mapping[str, str],
    corpus: str,
    pairs: Mapping[str, str | None] | None = None,
) -> list[Section]:
    """Return the sections of a corpus; no counts are read.

    Parameters
    ----------
    grids
        Its slices.
    splits
        Split of each slug.
    corpus
        Name of the corpus, for the report.
    pairs
        Pair of adjacent sections of each slug, where known.
    """
    return [
        Section(
            corpus=corpus,
            slug=grid.meta.slug,
            split=splits[grid.meta.slug],
            donor=grid.meta.donor,
            section=grid.meta.section,
            pair=(pairs or {}).get(grid.meta.slug),
            counts_digest=grid.meta.counts_digest,
            genes=grid.genes,
            load=_Loader(grid),
        )
        for grid in grids
    ]


@dataclass(frozen=True)
class _Loader:
    """Reads the counts of a grid when they are asked for."""

    grid: GridLike

    def __call__(self) -> csr_array:
        return self.grid.cells(self.grid.whole_box()).counts


def take_fingerprints(sections: Sequence[Section]) -> Iterator[Fingerprint]:
    """Reduce every section to the genes that any other could be compared with it on.

    For each gene list of the collection, the 768 most abundant genes of the section that are in
    it: so two sections share their common genes however few or rare these are.
    """
    ids = [[comparable_id(gene) for gene in section.genes] for section in sections]
    numbers = {gene: i for i, gene in enumerate(sorted({gene for part in ids for gene in part}))}
    genes = [np.asarray([numbers[gene] for gene in part], np.int64) for part in ids]
    lists: dict[bytes, NDArray[np.bool_]] = {}
    for part in genes:
        member = np.zeros(len(numbers), bool)
        member[part] = True
        lists.setdefault(np.packbits(member).tobytes(), member)
    for section, part in zip(sections, genes, strict=True):
        yield _reduce(section.load(), part, list(lists.values()))


def comparable_id(gene: str) -> str:
    """Return a gene id without what differs between references: the version of an Ensembl id."""
    found = _VERSIONED.match(gene)
    return found[1] if found else gene


def _reduce(
    counts: csr_array, genes: NDArray[np.int64], lists: Sequence[NDArray[np.bool_]]
) -> Fingerprint:
    # Of two genes that become one id, the first stands.
    unique, first = np.unique(genes, return_index=True)
    columns: csc_array = counts[:, first].tocsc()
    totals = np.asarray(columns.sum(axis=0, dtype=np.int64)).ravel()
    order = np.argsort(-totals, kind="stable")
    order = order[totals[order] > 0]
    kept = np.zeros(unique.size, bool)
    for member in lists:
        kept[order[member[unique[order]]][:_KEPT]] = True
    chosen = np.flatnonzero(kept)
    clipped = columns[:, chosen]
    clipped.data = np.minimum(clipped.data, np.iinfo(np.uint16).max)
    return Fingerprint(
        genes=unique[chosen],
        counts=clipped.astype(np.uint16).toarray(),
        totals=totals[chosen],
    )
