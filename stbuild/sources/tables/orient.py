"""Which axis of a count table holds the spots, and what its leading columns and values are.

Told from the ids of both axes: barcodes and array coordinates are spots, Ensembl ids are genes; a
table of positions that names one axis settles it. A table that does not tell is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import (
    GENE_IDS,
    GENE_NAMES,
    IDS,
    find_composite,
    find_ids,
    fold,
    is_vague,
    no_genes,
)
from stbuild.sources.tables.ids import is_gene, is_plain, is_spot, match_ids, share
from stbuild.sources.tables.preview import Preview
from stbuild.sources.tables.roles import leading_columns

_MOST: Final = 0.5
"""Share of an axis that must look like spots, or like genes."""
_FIX: Final = (
    "name the spots by barcode or array coordinates (10x13), or give positions with the same ids: "
    "--positions FILE"
)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """How a count table is to be read."""

    by_spot: bool
    """Whether rows are spots."""
    n_leading: int
    """Columns before the values."""
    kept: tuple[int, ...]
    """Columns that hold counts."""
    ids: tuple[int, ...]
    """Leading columns that make up the id of a row: one, or fov and cell_ID."""
    names: int | None
    """Leading column with the names of genes beside their ids."""
    left_out: tuple[str, ...]
    """Names of the columns that hold neither ids nor counts."""


def find_axes(preview: Preview, known: Sequence[Sequence[str]]) -> Axes:
    """Decide which axis holds the spots.

    Parameters
    ----------
    preview
        The first rows of the table.
    known
        Columns of a table of positions that may hold the ids of the spots, none without a table.

    Raises
    ------
    SourceFaultError
        B058: no rows. B022: no header. B091: no column of ids. B040: both axes look like spots,
        or neither does.
    """
    if preview.names is None:
        what = "no header: the first line holds numbers"
        fix = "give a table of counts whose first line names the genes or the spots"
        raise SourceFaultError("B022", preview.path.name, what, fix)
    if not preview.rows:
        what = "the table has a header and nothing else"
        raise SourceFaultError("B058", preview.path.name, what, "drop this slice from the list")
    names = preview.names
    n_leading = leading_columns(preview)
    ids = find_composite(names[:n_leading]) or (_id_column(preview, n_leading, known),)
    _require_ids(preview, ids, n_leading)
    if n_leading == preview.n_fields:
        what = f"no counts: its columns are {', '.join(names[:8])!r:.200}"
        raise SourceFaultError("B023", preview.path.name, what, "give the table of counts")
    rows = [str(row[ids[0]]).strip() for row in preview.rows if len(row) > ids[0]]
    columns = [name.strip() for name in names[n_leading:]]
    by_spot = len(ids) == 2 or _by_spot(preview, rows, columns, known)
    excluded = no_genes(names)
    kept = [i for i in range(n_leading, preview.n_fields) if i not in excluded]
    second = None if by_spot else _name_column(names, ids[0], n_leading)
    left_out = set(range(preview.n_fields)) - set(kept) - set(ids) - {second}
    return Axes(
        by_spot=by_spot,
        n_leading=n_leading,
        kept=tuple(kept),
        ids=ids,
        names=second,
        left_out=tuple(names[i] for i in sorted(left_out)),
    )


def _id_column(preview: Preview, n_leading: int, known: Sequence[Sequence[str]]) -> int:
    """Return the leading column of ids: named so, and found among the positions if several are.

    A column of numbers whose name says little is one of row numbers beside any other of ids.
    """
    names = (preview.names or ())[:n_leading]
    folded = fold(names)
    usual = find_ids(names)
    genes = [i for i, name in enumerate(folded) if name in GENE_IDS]
    certain = [i for i in usual if not is_vague(folded[i])]
    texts = [i for i in usual if i not in certain and not preview.numeric(i)]
    if len(certain) < 2:
        return next(iter((*certain, *texts, *genes, *usual)), 0)

    def share_found(i: int) -> float:
        return max((_share_known(_strip(preview, i), ids) for ids in known), default=0.0)

    return max(certain, key=share_found)  # the first of equals


def _strip(preview: Preview, i: int) -> list[str]:
    return [value.strip() for value in preview.column(i)]


def _name_column(names: Sequence[str], own: int, n_leading: int) -> int | None:
    """Return the leading column with gene names beside the ids, if there is one."""
    annotations = no_genes(names)
    others = [i for i in range(n_leading) if i not in {own, *annotations, *find_ids(names)}]
    folded = fold(names)
    named = [i for i in others if folded[i] in GENE_NAMES]
    found = named or others
    return found[0] if len(found) == 1 else None


def _require_ids(preview: Preview, ids: Sequence[int], n_leading: int) -> None:
    """Check that the first column is one of ids, not of counts without any."""
    name = fold(preview.names or ())[ids[0]]
    usual = name in IDS or name in GENE_IDS or len(ids) == 2
    if usual or n_leading > 1 or not preview.numeric(ids[0]):
        return
    what = f"no column of ids: the first column is {name!r:.60} and holds numbers"
    fix = "write the table with the ids of its rows in the first column"
    raise SourceFaultError("B091", preview.path.name, what, fix)


def _by_spot(
    preview: Preview,
    rows: Sequence[str],
    columns: Sequence[str],
    known: Sequence[Sequence[str]],
) -> bool:
    """Tell whether the rows are the spots."""
    axes = (rows, columns)
    for ids in known:
        found = [_share_known(axis, ids) for axis in axes]
        if max(found) >= _MOST > min(found):
            return found[0] > found[1]
    spots = [share(axis, is_spot) >= _MOST for axis in axes]
    if all(spots):
        what = f"both axes look like spots (first: {rows[0]!r:.40} and {columns[0]!r:.40})"
        fix = "give a table with genes on one axis and spots on the other"
        raise SourceFaultError("B040", preview.path.name, what, fix)
    for test, holds_spots in ((is_spot, True), (is_gene, False), (is_plain, True)):
        found = [share(axis, test) for axis in axes]
        if max(found) >= _MOST > min(found):
            return (found[0] > found[1]) == holds_spots
    what = (
        "cannot tell spots from genes: neither rows nor columns have the form of either "
        f"(first: {rows[0]!r:.40} and {columns[0]!r:.40})"
    )
    raise SourceFaultError("B040", preview.path.name, what, _FIX)


def _share_known(names: Sequence[str], known: Sequence[str]) -> float:
    sample = list(names)[:: max(1, len(names) // 1000)]
    return float(np.mean(match_ids(sample, known) >= 0)) if sample else 0.0
