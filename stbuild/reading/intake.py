"""From what a source holds to a slice: which spots and genes are kept, by named policies.

Everything left out is counted by reason, so that molecules read = kept + dropped (promise P17).
No file format is known here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.counts import column_sums, gather, row_sums
from stbuild.genes.tables import GeneTable
from stbuild.lattices.arrays import compare_positions
from stbuild.reading.gene_mapping import find_genes, map_genes
from stbuild.reading.provenance import describe_files
from stbuild.slices import Notice, Slice, SliceRecord, Unit
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.ids import (
    refuse_transposed,
    require_genes,
    require_labels,
    require_spots,
)
from stbuild.sources.raw import RawSlice

_LARGEST_INDEX: Final = 2**40
"""Array indices beyond it are damage, not coordinates."""
_LARGEST_POSITION: Final = 1e15
"""So are positions: from there on float64 has no fractions, and their squares soon overflow."""


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Coordinates of the kept spots."""

    array: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    xy: NDArray[np.float64] | None
    unit: Unit
    notices: tuple[Notice, ...]


def take_in(
    record: SliceRecord,
    config: GridConfig,
    raw: RawSlice,
    table: GeneTable | None = None,
    scratch: Path | None = None,
) -> Slice:
    """Decide which spots and genes of a source are kept.

    Spots without counts, and by default those with ``in_tissue`` 0, are dropped and counted.
    Library sizes are taken over all genes of the source, before any gene is left out; control
    probes and features of other types are no genes.

    Parameters
    ----------
    record, config
        The slice's id, for messages; the policies.
    raw
        What the reader handed over.
    table
        Pairs of Ensembl ids and symbols, where ids are to be mapped.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError
        Every fault at once: ids that are empty or stand twice, no counts, no coordinates,
        genes that cannot be mapped.
    """
    faults = Faults()
    faults.attempt(lambda: require_spots(raw.barcodes))
    faults.attempt(lambda: require_genes(raw.genes))
    faults.attempt(lambda: refuse_transposed(raw.barcodes, raw.genes))
    faults.attempt(lambda: require_labels(raw.labels))
    faults.attempt(lambda: _require_one_plane(raw, config))
    if faults.found:
        raise faults.error(record.name, record.path)
    genes = find_genes(raw.genes, raw.gene_types)
    # Where none is a gene, it is their mapping that says so.
    totals = row_sums(raw.counts, None if genes.all() or not genes.any() else genes)
    off, lost = _off_tissue(raw, config)
    kept = np.flatnonzero(~off & ~lost & (totals > 0))
    places = faults.attempt(lambda: _locate(record, raw, config, kept))
    mask = np.zeros(totals.size, bool)
    mask[kept] = True
    molecules = column_sums(raw.counts, mask)
    mapping = faults.attempt(
        lambda: map_genes(
            raw.genes,
            raw.gene_names,
            molecules,
            config,
            table,
            subject=f"slice '{record.name}'",
            types=raw.gene_types,
        )
    )
    if faults.found or places is None or mapping is None:
        raise faults.error(record.name, record.path)
    same = bool(np.array_equal(mapping.column, np.arange(len(raw.genes))))
    if same and kept.size == totals.size:
        counts = raw.counts
    else:
        column = None if same else mapping.column
        counts = gather(raw.counts, kept, scratch, column=column, n_columns=len(mapping.genes))
    ledger = {
        "spots_read": totals.size,
        "spots_off_tissue": int(off.sum()),
        "spots_without_counts": int(np.count_nonzero(~off & ~lost & (totals == 0))),
        "molecules_read": int(totals.sum()),
        "molecules_off_tissue": int(totals[off].sum()),
        **({"molecules_without_position": int(totals[lost].sum())} if lost.any() else {}),
        **mapping.report.as_ledger(),
        "molecules_kept": int(row_sums(counts).sum()),
        **raw.ledger,
        **_count_others(raw, genes),
    }
    in_spots = int(totals[kept].sum()) + int(molecules[~genes].sum())
    _require_conserved(ledger, in_spots, mapping.report.as_ledger())
    labels = raw.labels
    array = places.array
    return Slice(
        counts=counts,
        genes=mapping.genes,
        totals=totals[kept],
        barcodes=[raw.barcodes[i] for i in kept.tolist()],
        array_row=array[0] if array else None,
        array_col=array[1] if array else None,
        xy=places.xy,
        unit=places.unit,
        um_per_unit=raw.um_per_unit,
        pitch_um=raw.pitch_um,
        labels=None if labels is None else [labels[i] for i in kept.tolist()],
        sources=describe_files(record, raw.files),
        # In the order in which a child process hands it over: a grid's bytes hold it.
        ledger=dict(sorted(ledger.items())),
        notices=(
            *raw.notices,
            *places.notices,
            *_spot_notices(record, ledger, int(lost.sum())),
            *mapping.notices,
        ),
    )


def _require_one_plane(raw: RawSlice, config: GridConfig) -> None:
    """Refuse spots that positions of several planes would put on top of each other.

    Raises
    ------
    SourceFaultError
        B047: several depths.
    """
    if raw.planes is None or (raw.array is not None and not _by_positions(config)):
        return
    column, values = raw.planes
    found = sorted(set(values) - {""})
    if len(found) > 1:
        what = (
            f"spots in {len(found):,} planes ({', '.join(found[:5])!s:.100}): on one grid they "
            "would lie on top of each other"
        )
        fix = (
            f"--split-by {column or 'COLUMN, one of obs that tells them apart,'} builds each plane "
            "by itself; leave the column out, if it is no depth"
        )
        where = "/obsm, third column of the positions" if column is None else f"/obs/{column}"
        raise SourceFaultError("B047", where, what, fix)


def _by_positions(config: GridConfig) -> bool:
    """Tell whether cells are asked to come from positions, whatever the array says."""
    return config.coords == "positions" or config.layout in ("px100", "bin")


def _count_others(raw: RawSlice, genes: NDArray[np.bool_]) -> dict[str, int]:
    """Return how many features are no genes, with their molecules; a reader's own among them."""
    if genes.all():
        return {}
    n, lost = int(np.count_nonzero(~genes)), int(column_sums(raw.counts)[~genes].sum())
    return {
        "features_of_other_types": n + raw.ledger.get("features_of_other_types", 0),
        "molecules_of_other_types": lost + raw.ledger.get("molecules_of_other_types", 0),
    }


def _locate(
    record: SliceRecord, raw: RawSlice, config: GridConfig, kept: NDArray[np.int64]
) -> _Places:
    """Return integer array coordinates where all kept spots have them, and the positions.

    Raises
    ------
    SourceFaultError
        B044: no spot is left. B046: no coordinates. B048: coordinates beyond all reason. B051:
        positions that contradict the array.
    """
    if not kept.size:
        raise _no_spots(raw, config)
    xy, unit = None if raw.xy is None else raw.xy[kept], raw.unit
    array: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    said: tuple[Notice, ...] = ()
    if raw.array is not None:
        pair = np.stack([column[kept] for column in raw.array])
        known = pair[np.isfinite(pair)]
        if bool(np.any(np.abs(known) > _LARGEST_INDEX)):
            what = f"array coordinates beyond 2^40 (largest: {np.abs(known).max():g})"
            raise SourceFaultError("B048", "", what, "mend the columns of array coordinates")
        n_odd = int(np.count_nonzero(~_whole(pair).all(axis=0)))
        if not n_odd:
            array = pair[0].astype(np.int64), pair[1].astype(np.int64)
        elif xy is None:
            # Fractional array coordinates are positions in lattice steps.
            xy, unit = pair[::-1].T.copy(), "array"
        else:
            what = f"{n_odd:,} of {kept.size:,} spots have no whole array coordinates; positions"
            said = (_used_for_all(record, what),)
    if array is None and xy is None:
        fix = "give obs['array_row'] and obs['array_col'], obsm['spatial'], or --positions FILE"
        raise SourceFaultError("B046", "", "no coordinates", fix)
    if xy is not None and float(np.abs(xy[np.isfinite(xy)]).max(initial=0)) > _LARGEST_POSITION:
        what = f"positions beyond 10^15 (largest: {np.abs(xy[np.isfinite(xy)]).max():g})"
        raise SourceFaultError("B048", "", what, "mend the positions; any unit will do")
    if array is not None and xy is not None:
        notice = _misplaced(record, config, array, xy)
        if notice is not None:
            return _Places(array=array, xy=None, unit=unit, notices=(notice,))
    return _Places(array=array, xy=xy, unit=unit, notices=said)


def _misplaced(
    record: SliceRecord,
    config: GridConfig,
    array: tuple[NDArray[np.int64], NDArray[np.int64]],
    xy: NDArray[np.float64],
) -> Notice | None:
    """Say why positions cannot be used beside the array coordinates of all spots, if so.

    They are distances of spots that the array has put into cells: what is asked of them is where
    those are. Where cells are asked to come from the positions, nothing is compared.

    Raises
    ------
    SourceFaultError
        B051: each says where the spots are, and they contradict each other.
    """
    n = len(xy)
    if n_bad := int(np.count_nonzero(~np.isfinite(xy).all(axis=1))):
        return _used_for_all(
            record, f"{n_bad:,} of {n:,} spots have no finite position; array coordinates"
        )
    if _by_positions(config):
        return None
    found = compare_positions(*array, xy)
    if found.is_contradiction and config.coords == "auto":
        what = (
            f"the positions are not those of the array coordinates: {found.n_far:,} of {n:,} spots "
            "lie more than half a pitch off"
        )
        fix = "mend the wrong ones; --coords array or --coords positions says which are right"
        raise SourceFaultError("B051", "", what, fix)
    if not found.is_misplaced:
        return None
    shared = f"{found.n_shared:,} of {n:,} spots stand at the position of another one"
    far = f"{found.n_far:,} of {n:,} positions lie more than half a pitch off the array"
    told = [text for text, k in ((shared, found.n_shared), (far, found.n_far)) if k]
    return _used_for_all(record, f"{', '.join(told)}; array coordinates", "B051")


def _whole(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values) & (values == np.floor(values)), np.bool_)


def _used_for_all(record: SliceRecord, what: str, code: str = "B048") -> Notice:
    """Say which coordinates are taken, where the others are not known of every spot, or wrong."""
    what += " are used for the whole slice"
    return Notice(code=code, subject=f"slice '{record.name}'", what=what)


def _off_tissue(raw: RawSlice, config: GridConfig) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which spots are left out as off the tissue, and which as without a position."""
    if raw.in_tissue is None or config.off_tissue == "keep":
        none = np.zeros(len(raw.barcodes), bool)
        return none, none
    placed = np.ones(len(raw.barcodes), bool) if raw.placed is None else raw.placed
    return ~raw.in_tissue & placed, ~placed


def _no_spots(raw: RawSlice, config: GridConfig) -> SourceFaultError:
    n, fix = len(raw.barcodes), "drop this slice from the list"
    what = f"no counts: all {n:,} spots are empty or off the tissue"
    off, lost = _off_tissue(raw, config)
    said = []
    if n_off := int(off.sum()):
        said.append(f"{n_off:,} have in_tissue 0 or none")
        fix += "; or --off-tissue keep, if the marks are wrong"
    if n_lost := int(lost.sum()):
        said.append(f"{n_lost:,} have no position")
        fix += "; or give the positions of all spots"
    what += f" ({', '.join(said)})" if said else ""
    return SourceFaultError("B044", "", what, fix)


def _spot_notices(record: SliceRecord, ledger: dict[str, int], n_lost: int) -> list[Notice]:
    subject = f"slice '{record.name}'"
    found = []
    if n_lost:
        what = f"{n_lost:,} of {ledger['spots_read']:,} spots have no position: dropped"
        found.append(Notice(code="B048", subject=subject, what=what))
    if n := ledger["spots_without_counts"]:
        what = f"{n:,} spots have no counts: dropped as unobserved"
        found.append(Notice(code="B045", subject=subject, what=what))
    if n := ledger["spots_off_tissue"]:
        found.append(
            Notice(code="B061", subject=subject, what=f"{n:,} spots are off the tissue: dropped")
        )
    return found


def _require_conserved(ledger: dict[str, int], in_spots: int, genes: dict[str, int]) -> None:
    """Check promise P17 in every run: a difference would be a bug, never bad input."""
    lost = sum(n for name, n in genes.items() if name.startswith("molecules_dropped"))
    if ledger["molecules_kept"] + lost != in_spots:
        msg = f"molecules are not conserved: {in_spots} in, {ledger['molecules_kept']} + {lost} out"
        raise RuntimeError(msg)
