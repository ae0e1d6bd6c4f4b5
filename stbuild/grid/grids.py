"""A slice on its grid, in memory: sparse counts of the observed cells and what surrounds them.

Built from a :class:`stbuild.slices.Slice` and a lattice by :mod:`stbuild.grid.placing`; stored and
read by :mod:`stbuild.grid.store`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus import names
from stbuild.corpus.documents import Document, Sha256, Slug, SourceFile, SplitName
from stbuild.corpus.lock import Origin


class GridMeta(Document):
    """The attributes of a grid: what it is, what it was made from, and what was dropped."""

    format: Literal["stcorpus/grid"] = names.FORMAT_GRID
    version: Literal[1] = names.VERSION
    slug: Slug
    name: str
    split: SplitName
    donor: str | None
    section: str | None
    pair: str | None
    species: str | None
    tissue: str | None
    platform: str | None
    licence: str | None
    layout: str
    kind: str
    """What the spots lie on: hex, quincunx, square or irregular."""
    evidence: str
    measures: dict[str, float]
    """Numbers behind the evidence, such as pitch, angle, residual, confidence."""
    shape: tuple[int, int]
    """(H, W)."""
    unit: Literal["um", "pixel", "array"]
    """Unit of ``xy``: ``pixel`` is whatever the source uses; ``array`` means lattice steps."""
    pitch: float | None
    pitch_um: float | None
    n_spots: int
    """Observed cells."""
    n_members: int
    """Spots or cells of the source that they hold; more than `n_spots` where some share a cell."""
    n_genes: int
    n_labelled: int
    max_count: int
    """Largest count: it decides the stored type."""
    label_names: tuple[str, ...]
    """Names of the label codes, sorted."""
    origin: Origin
    sources: tuple[SourceFile, ...]
    config: GridConfig
    ledger: dict[str, int]
    counts_digest: Sha256
    """Digest of genes, cells and counts: what random draws are keyed by."""
    content: Sha256
    """Digest of everything logical in the grid, provenance left out."""


class Box(NamedTuple):
    """Grid cells [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True, kw_only=True)
class Members:
    """Which spots or cells of the source lie in which cell, where some share one."""

    barcodes: Sequence[str]
    """(M,) ids, sorted by cell, then by id."""
    spots: NDArray[np.int32]
    """(M,) number of the observed cell that each lies in, ascending."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """N observed spots over K genes on an H x W grid, in grid order (row by row)."""

    meta: GridMeta
    counts: csr_array
    """(N, K) uint32, sorted indices; maybe mapped from a scratch file."""
    genes: Sequence[str]
    """(K,) ids, sorted."""
    totals: NDArray[np.uint32]
    """(N,) library size over all genes of the source."""
    rows: NDArray[np.int32]
    """(N,) grid row."""
    cols: NDArray[np.int32]
    """(N,) grid column."""
    xy: NDArray[np.float64]
    """(N, 2) position (x, y) in ``meta.unit``."""
    labels: NDArray[np.int16]
    """(N,) position in ``meta.label_names``, -1 = none."""
    barcodes: Sequence[str]
    """(N,) spot ids."""
    members: Members | None = None
    """Ids of the source's spots, where several share a cell."""

    def occupied(self) -> NDArray[np.bool_]:
        """Return the (H, W) mask of observed cells."""
        mask = np.zeros(self.meta.shape, bool)
        mask[self.rows, self.cols] = True
        return mask

    def sites(self, box: Box) -> "Sites":
        """Return the observed spots of a part, without their counts."""
        inside = self._inside(box)
        return Sites(
            meta=self.meta,
            box=box,
            genes=self.genes,
            totals=self.totals[inside],
            rows=self.rows[inside] - box.top,
            cols=self.cols[inside] - box.left,
            labels=self.labels[inside],
            numbers=inside.astype(np.int32),
        )

    def cells(self, box: Box) -> "Region":
        """Return the observed spots of a part of the grid."""
        inside = self._inside(box)
        whole = inside.size == len(self.barcodes)
        counts = self.counts if whole else self.counts[inside]
        return Region(counts=counts, **vars(self.sites(box)))

    def fill_counts(
        self, box: Box, out: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> None:
        """Write the counts of a part into an (h, w, G) array of zeros; see `GridSource`."""
        region = self.cells(box)
        for row in range(box.shape[0]):
            first, last = np.searchsorted(region.rows, [row, row + 1])
            block = region.counts[first:last].astype(out.dtype).toarray()
            out[row, region.cols[first:last]] = block if columns is None else block[:, columns]

    def _inside(self, box: Box) -> NDArray[np.int64]:
        return np.flatnonzero(
            (self.rows >= box.top) & (self.rows < box.bottom)
            & (self.cols >= box.left) & (self.cols < box.right)
        )  # fmt: skip

    def whole_box(self) -> Box:
        """Return the box of all cells."""
        return Box(0, self.meta.shape[0], 0, self.meta.shape[1])


@dataclass(frozen=True, kw_only=True)
class Sites:
    """The n observed spots of a part of a grid, without their counts."""

    meta: GridMeta
    """Of the whole grid."""
    box: Box
    genes: Sequence[str]
    totals: NDArray[np.uint32]
    rows: NDArray[np.int32]
    """(n,) row within the box."""
    cols: NDArray[np.int32]
    labels: NDArray[np.int16]
    numbers: NDArray[np.int32]
    """(n,) number of each spot within the whole grid."""


@dataclass(frozen=True, kw_only=True)
class Region(Sites):
    """The observed spots of a part of a grid with their counts."""

    counts: csr_array
    """(n, K) uint32."""


class GridSource(Protocol):
    """A grid that hands out parts of itself: one in memory, or one on disk."""

    @property
    def meta(self) -> GridMeta:
        """The attributes of the whole grid."""
        ...

    @property
    def genes(self) -> Sequence[str]:
        """(K,) ids, sorted."""
        ...

    def occupied(self) -> NDArray[np.bool_]:
        """Return the (H, W) mask of observed cells."""
        ...

    def sites(self, box: Box) -> Sites:
        """Return the observed spots of a part, without their counts."""
        ...

    def cells(self, box: Box) -> Region:
        """Return the observed spots of a part."""
        ...

    def fill_counts(
        self, box: Box, out: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> None:
        """Write the counts of a part into an array.

        Parameters
        ----------
        box
            The part.
        out
            (h, w, G) zeros, of a type that holds the counts; it may reach past the part.
        columns
            (G,) genes to take; None takes all.
        """
        ...
