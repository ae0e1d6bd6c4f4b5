"""Placing a slice on its grid: spots in grid order, shared cells resolved, all of it digested.

Rows before columns. The order of spots and genes in the source leaves no trace; counts are
conserved: what is not on the grid stands in the ledger by reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus.digests import content_digest, lines_digest
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.names import MAX_LABELS
from stbuild.counts import gather
from stbuild.grid.grids import Grid, GridMeta, Members
from stbuild.lattices import Lattice
from stbuild.lattices.arrays import DISAGREE
from stbuild.reading.provenance import describe_origin
from stbuild.slices import Notice, Slice, SliceRecord

_LARGEST_TOTAL: Final = 2**32 - 1
"""Library sizes are kept in 32 bits."""

_FEW_SITES: Final = 128
"""Sites of the median window below which a recognised lattice may be a finer one than the true."""


@dataclass(frozen=True)
class _Order:
    """Which spots go where."""

    taken: NDArray[np.int64]
    """(M,) placed spots of the slice, by cell, then by id."""
    groups: NDArray[np.int64]
    """(M,) number of the observed cell of each, ascending from 0."""
    first: NDArray[np.int64]
    """(N,) position in `taken` of the first spot of each cell."""
    n_dropped: int
    """Spots that share a cell with an earlier one and were left out."""

    @property
    def shared(self) -> bool:
        """Whether any cell holds several spots."""
        return self.first.size < self.taken.size


def build_grid(
    record: SliceRecord,
    config: GridConfig,
    st_slice: Slice,
    lattice: Lattice,
    scratch: Path | None = None,
    table: Path | None = None,
) -> Grid:
    """Place a slice on its grid.

    Spots that share a cell (layout ``bin``, or ``collisions = sum``) are summed: counts and
    library sizes add up, the position is their mean, the label the most frequent one (of equally
    frequent ones the first by name); ``members`` keeps which they were.

    Parameters
    ----------
    record, config
        What the user says about the slice, and how it was placed.
    st_slice, lattice
        The slice and the cell of each of its spots.
    scratch
        Folder for counts that do not fit into memory.
    table
        Gene table that was used, for the record.
    """
    order = _order(st_slice, lattice, config)
    ids = [st_slice.barcodes[i] for i in order.taken.tolist()]
    groups = order.groups if order.shared else None
    counts = gather(st_slice.counts, order.taken, scratch, groups=groups)
    starts = order.first
    seats = order.taken[starts]
    rows, cols = lattice.row[seats], lattice.col[seats]
    totals = _sum_totals(record, st_slice.totals[order.taken], starts)
    xy = _positions(st_slice, lattice, order, rows, cols)
    names = _label_names(record, config, st_slice.labels)
    labels = _label_codes(names, st_slice.labels, order)
    barcodes = _name_cells(lattice.layout, ids, starts, rows, cols)
    key = _counts_digest(lattice.shape, rows, cols, counts, st_slice.genes, totals)
    members = None
    if order.shared or lattice.layout == "bin":
        members = Members(barcodes=ids, spots=order.groups.astype(np.int32))
    has_xy = st_slice.xy is not None
    meta = GridMeta(
        **{name: getattr(record, name) for name in _FROM_RECORD},
        layout=lattice.layout,
        kind=lattice.kind,
        evidence=lattice.evidence,
        measures=lattice.measures,
        shape=lattice.shape,
        unit=st_slice.unit if has_xy else "array",
        pitch=lattice.pitch if has_xy else 1.0,
        pitch_um=_pitch_um(config, st_slice, lattice),
        n_spots=len(barcodes),
        n_members=len(ids),
        n_genes=len(st_slice.genes),
        n_labelled=int((labels >= 0).sum()),
        max_count=int(counts.data.max(initial=0)),
        label_names=names,
        origin=describe_origin(record, table),
        sources=st_slice.sources,
        config=config,
        ledger=_ledger(st_slice, lattice, order),
        counts_digest=key,
        content=_content(key, barcodes, xy, labels, lattice, names, members),
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
        members=members,
    )


def _sum_totals(
    record: SliceRecord, totals: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Return the library size of each cell; as it bounds every count, nothing wraps below it."""
    sums = np.add.reduceat(totals, starts)
    if (largest := int(sums.max(initial=0))) > _LARGEST_TOTAL:
        n = int(np.count_nonzero(sums > _LARGEST_TOTAL))
        raise BadInputError(
            Problem(
                code="B031",
                subject=f"slice '{record.name}'",
                where=record.path,
                what=f"{n:,} cells hold more than {_LARGEST_TOTAL:,} molecules (most: {largest:,})",
                fix="give raw counts: --layer NAME, or 'raw'; or smaller bins",
            )
        )
    return sums.astype(np.uint32)


_FROM_RECORD = (
    "slug", "name", "split", "donor", "section", "pair", "species", "tissue", "platform", "licence",
)  # fmt: skip


def _order(st_slice: Slice, lattice: Lattice, config: GridConfig) -> _Order:
    placed = np.flatnonzero(lattice.row >= 0)
    cell = lattice.row[placed].astype(np.int64) * lattice.shape[1] + lattice.col[placed]
    order = np.argsort(cell, kind="stable")
    if bool(np.any(np.diff(cell[order]) == 0)):
        # Only then do ids decide: within a cell spots stand by id, whatever the source's order.
        ids = np.asarray([st_slice.barcodes[i].encode() for i in placed.tolist()])
        order = np.lexsort((ids, cell))
    taken = placed[order]
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    if config.collisions == "first" and lattice.layout != "bin":
        n_dropped = taken.size - starts.size
        kept = taken[starts]
        return _Order(kept, np.arange(kept.size), np.arange(kept.size), n_dropped)
    groups = np.repeat(np.arange(starts.size), np.diff(starts, append=taken.size))
    return _Order(taken, groups, starts, 0)


def _positions(
    st_slice: Slice,
    lattice: Lattice,
    order: _Order,
    rows: NDArray[np.int32],
    cols: NDArray[np.int32],
) -> NDArray[np.float64]:
    if st_slice.xy is None:
        return _array_positions(rows, cols, lattice)
    xy = st_slice.xy[order.taken]
    if not order.shared:
        return xy
    sizes = np.diff(order.first, append=order.taken.size)
    return np.asarray(np.add.reduceat(xy, order.first, axis=0) / sizes[:, None], np.float64)


def _array_positions(
    rows: NDArray[np.int32], cols: NDArray[np.int32], lattice: Lattice
) -> NDArray[np.float64]:
    """Return (x, y) in steps along a row, from the grid cells alone."""
    x, y = cols.astype(np.float64), rows.astype(np.float64)
    if lattice.layout in ("hex-offset", "quincunx-offset"):
        height = np.sqrt(3) / 2 if lattice.layout == "hex-offset" else 0.5
        x, y = x + 0.5 * (rows % 2), y * height
    return np.stack([x, y], axis=1)


def _label_names(
    record: SliceRecord, config: GridConfig, labels: Sequence[str | None] | None
) -> tuple[str, ...]:
    """Return the names of the labels, sorted; refuse more than there are codes."""
    found = tuple(sorted({label for label in labels or () if label is not None}))
    if len(found) > MAX_LABELS:
        column = f"column '{config.label}'" if config.label else "the column of labels"
        path = record.labels_file or record.path
        raise BadInputError(
            Problem(
                code="B079",
                subject=f"slice '{record.name}'",
                where=f"{path}:{config.label}" if config.label else path,
                what=f"{column} has {len(found):,} different labels, at most {MAX_LABELS:,} fit",
                fix="name a column of classes with --label, not one of ids or measurements",
            )
        )
    return found


def _label_codes(
    names: tuple[str, ...], labels: Sequence[str | None] | None, order: _Order
) -> NDArray[np.int16]:
    """Return the (N,) code of each cell: its most frequent label, or -1."""
    if labels is None:
        return np.full(order.first.size, -1, np.int16)
    code = {label: i for i, label in enumerate(names)}
    codes = np.asarray(
        [-1 if (label := labels[i]) is None else code[label] for i in order.taken.tolist()],
        np.int64,
    )
    if not order.shared:
        return codes.astype(np.int16)
    votes = csr_array(
        (np.ones(codes.size, np.int64), (order.groups, codes + 1)),
        shape=(order.first.size, len(names) + 1),
    ).toarray()[:, 1:]
    # argmax takes the first of equals, which is the first by name.
    best = votes.argmax(axis=1) if names else np.zeros(order.first.size, np.int64)
    return np.where(votes.any(axis=1), best, -1).astype(np.int16)


def _name_cells(
    layout: str,
    ids: list[str],
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    cols: NDArray[np.int32],
) -> list[str]:
    if layout != "bin":
        return [ids[i] for i in starts.tolist()]
    return [f"bin_{row}_{col}" for row, col in zip(rows.tolist(), cols.tolist(), strict=True)]


def _pitch_um(config: GridConfig, st_slice: Slice, lattice: Lattice) -> float | None:
    """Return the distance of neighbouring cells in micrometres: said, known, or computed."""
    if config.pitch_um is not None:
        return config.pitch_um
    if lattice.layout != "bin" and st_slice.pitch_um is not None:
        return st_slice.pitch_um
    scale = 1.0 if st_slice.unit == "um" else st_slice.um_per_unit
    return None if scale is None or lattice.pitch is None else lattice.pitch * scale


def _ledger(st_slice: Slice, lattice: Lattice, order: _Order) -> dict[str, int]:
    off = lattice.row < 0
    placed = int(st_slice.totals[~off].sum())
    on_grid = int(st_slice.totals[order.taken].sum())
    return {
        **st_slice.ledger,
        "spots_off_grid": int(off.sum()),
        "molecules_off_grid": int(st_slice.totals[off].sum()),
        "spots_in_shared_cells": order.taken.size - order.first.size,
        "spots_dropped_collisions": order.n_dropped,
        "molecules_dropped_collisions": placed - on_grid,
        "spots_on_grid": order.taken.size,
        "molecules_on_grid": on_grid,
    }


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
        "indices": counts.indices.astype(np.int32, copy=False),
        "data": counts.data.astype(np.uint32, copy=False),
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
    members: Members | None,
) -> str:
    meta: dict[str, object] = {
        "counts": counts_digest,
        "barcodes": lines_digest(barcodes),
        "label_names": list(label_names),
        "layout": lattice.layout,
    }
    arrays: dict[str, NDArray[Any]] = {"xy": xy, "labels": labels}
    if members is not None:
        meta["members"] = lines_digest(members.barcodes)
        arrays["member_spots"] = members.spots
    return content_digest(arrays, meta).hex()


def placing_notices(meta: GridMeta) -> tuple[Notice, ...]:
    """Say what placing a slice has dropped, merged or moved."""
    found, subject = [], f"slice '{meta.name}'"
    if n := meta.ledger["spots_off_grid"]:
        what = f"{n:,} spots lie off the grid: dropped"
        found.append(Notice(code="B055", subject=subject, what=what))
    if n := meta.ledger["spots_dropped_collisions"]:
        what = f"{n:,} spots share a cell with an earlier one: dropped"
        found.append(Notice(code="B049", subject=subject, what=what))
    if (n := meta.ledger["spots_in_shared_cells"]) and meta.layout != "bin":
        what = f"{n:,} spots share a cell with another one: their counts are summed"
        found.append(Notice(code="B049", subject=subject, what=what))
    rows, cols = (int(meta.measures.get(f"n_gap_{axis}", 0)) for axis in ("rows", "cols"))
    if rows or cols:
        what = f"gaps kept open by {rows:,} empty rows and {cols:,} empty columns"
        found.append(Notice(code="B060", subject=subject, what=what))
    median = meta.measures.get("median_window", 256.0)
    if "peak" in meta.measures and median < _FEW_SITES:
        what = (
            f"the lattice found in the positions is filled sparsely ({median:.0f} of 256 sites of "
            "the median window): a thin tissue, or several sections on top of each other"
        )
        found.append(Notice(code="B053", subject=subject, what=what))
    residual = meta.measures.get("residual", 0.0)
    if "parity" in meta.measures and residual > DISAGREE:
        what = (
            f"positions lie {residual:.2f} pitches off the array coordinates: cells are those of "
            "the array, distances those of the positions"
        )
        found.append(Notice(code="B051", subject=subject, what=what))
    return tuple(found)
