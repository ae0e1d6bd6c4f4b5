"""A slice on its grid, in memory: sparse counts of the observed cells and what surrounds them.

Built from a :class:`stbuild.slices.Slice` and a lattice; stored and read by :mod:`stbuild.store`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus import names
from stbuild.corpus.digests import content_digest, lines_digest
from stbuild.corpus.documents import Document, Sha256, Slug, SourceFile, SplitName
from stbuild.lattices import Lattice
from stbuild.slices import Slice, SliceRecord


class GridMeta(Document):
    """The attributes of a grid: what it is, what it was made from, and what was dropped."""

    format: Literal["stcorpus/grid"] = names.FORMAT_GRID
    version: Literal[1] = names.VERSION
    slug: Slug
    name: str
    split: SplitName
    donor: str | None
    section: str | None
    species: str | None
    tissue: str | None
    platform: str | None
    licence: str | None
    layout: str
    kind: str
    evidence: str
    shape: tuple[int, int]
    """(H, W)."""
    unit: Literal["um", "pixel", "array"]
    """Unit of ``xy``: ``pixel`` is whatever the source uses; ``array`` means lattice steps."""
    pitch: float | None
    pitch_um: float | None
    n_spots: int
    n_genes: int
    n_labelled: int
    label_names: tuple[str, ...]
    """Names of the label codes, sorted."""
    source: SourceFile
    config: GridConfig
    ledger: dict[str, int]
    counts_digest: Sha256
    """Digest of genes, cells and counts: what random draws are keyed by."""
    content: Sha256
    """Digest of everything logical in the grid, provenance left out."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """N observed spots over K genes on an H x W grid, in grid order (row by row)."""

    meta: GridMeta
    counts: csr_array
    """(N, K) uint32, sorted indices."""
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

    def occupied(self) -> NDArray[np.bool_]:
        """Return the (H, W) mask of observed cells."""
        mask = np.zeros(self.meta.shape, bool)
        mask[self.rows, self.cols] = True
        return mask


def build_grid(record: SliceRecord, config: GridConfig, st_slice: Slice, lattice: Lattice) -> Grid:
    """Place a slice on its grid: spots in grid order, labels coded by sorted name.

    The order of spots and genes in the source leaves no trace but the recorded digest of the
    file. Counts are conserved: molecules read = kept + dropped, per reason, in the ledger.
    """
    order = np.lexsort((lattice.col, lattice.row))
    counts = csr_array(st_slice.counts[order])
    rows, cols = lattice.row[order], lattice.col[order]
    has_xy = st_slice.xy is not None
    xy = st_slice.xy[order] if st_slice.xy is not None else _array_positions(rows, cols, lattice)
    label_names, labels = _code_labels(st_slice.labels, order)
    totals = st_slice.totals[order].astype(np.uint32)
    barcodes = [st_slice.barcodes[i] for i in order]
    key = _counts_digest(lattice.shape, rows, cols, counts, st_slice.genes, totals)
    meta = GridMeta(
        slug=record.slug,
        name=record.name,
        split=record.split,
        donor=record.donor,
        section=record.section,
        species=record.species,
        tissue=record.tissue,
        platform=record.platform,
        licence=record.licence,
        layout=lattice.layout,
        kind=lattice.kind,
        evidence=lattice.evidence,
        shape=lattice.shape,
        unit="pixel" if has_xy else "array",
        pitch=lattice.pitch if has_xy else 1.0,
        pitch_um=config.pitch_um,
        n_spots=len(barcodes),
        n_genes=len(st_slice.genes),
        n_labelled=int((labels >= 0).sum()),
        label_names=label_names,
        source=st_slice.source,
        config=config,
        ledger=st_slice.ledger,
        counts_digest=key,
        content=_content(key, barcodes, xy, labels, lattice, label_names),
    )
    return Grid(
        meta=meta,
        counts=counts,
        genes=st_slice.genes,
        totals=totals,
        rows=rows,
        cols=cols,
        xy=xy,
        labels=labels,
        barcodes=barcodes,
    )


def _array_positions(
    rows: NDArray[np.int32], cols: NDArray[np.int32], lattice: Lattice
) -> NDArray[np.float64]:
    """Return (x, y) in steps along a row, from the grid cells alone."""
    x, y = cols.astype(np.float64), rows.astype(np.float64)
    if lattice.layout == "hex-offset":
        x, y = x + 0.5 * (rows % 2), y * np.sqrt(3) / 2
    return np.stack([x, y], axis=1)


def _code_labels(
    labels: Sequence[str | None] | None, order: NDArray[Any]
) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    if labels is None:
        return (), np.full(order.size, -1, np.int16)
    found = tuple(sorted({label for label in labels if label is not None}))
    code = {label: i for i, label in enumerate(found)}
    codes = [-1 if (label := labels[i]) is None else code[label] for i in order]
    return found, np.asarray(codes, np.int16)


def _counts_digest(
    shape: tuple[int, int],
    rows: NDArray[np.int32],
    cols: NDArray[np.int32],
    counts: csr_array,
    genes: Sequence[str],
    totals: NDArray[np.uint32],
) -> str:
    arrays: dict[str, NDArray[Any]] = {
        "rows": rows,
        "cols": cols,
        "indptr": counts.indptr.astype(np.int64),
        "indices": counts.indices.astype(np.int32),
        "data": counts.data.astype(np.uint32),
        "totals": totals,
    }
    return content_digest(arrays, {"genes": lines_digest(genes), "shape": list(shape)}).hex()


def _content(
    counts_digest: str,
    barcodes: Sequence[str],
    xy: NDArray[np.float64],
    labels: NDArray[np.int16],
    lattice: Lattice,
    label_names: tuple[str, ...],
) -> str:
    meta = {
        "counts": counts_digest,
        "barcodes": lines_digest(barcodes),
        "label_names": list(label_names),
        "layout": lattice.layout,
    }
    return content_digest({"xy": xy, "labels": labels}, meta).hex()
