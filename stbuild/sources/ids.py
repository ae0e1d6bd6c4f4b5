"""Checks of the ids of spots and genes and of labels, whatever format they come from."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from stbuild.genes.ids import ENSEMBL
from stbuild.sources.faults import SourceFaultError

_LONGEST_ID: Final = 200
_BARCODE: Final = re.compile(r"[ACGT]{10,}(-\d+)?")


def require_spots(barcodes: Sequence[str]) -> None:
    """Check that there are spots and that their ids are plain and unique.

    Raises
    ------
    SourceFaultError
        B058: none. B091: an id that is empty, too long or not printable. B082: one stands twice.
    """
    if not barcodes:
        raise SourceFaultError("B058", "", "0 spots", "drop this slice from the list")
    if bad := [b for b in barcodes if not b or not b.isprintable() or len(b) > _LONGEST_ID]:
        what = f"{len(bad):,} spot ids are empty, too long or not printable (first: {bad[0]!r:.80})"
        raise SourceFaultError("B091", "", what, "give each spot a plain id")
    twice = [name for name, times in Counter(barcodes).items() if times > 1]
    if twice:
        what = f"{len(twice):,} spot ids stand more than once (first: {', '.join(twice[:3])})"
        fix = (
            "make them unique (obs_names_make_unique), or tell the sections of one file apart "
            "with --split-by COLUMN; embeddings are joined on the ids"
        )
        raise SourceFaultError("B082", "", what, fix)


def refuse_transposed(barcodes: Sequence[str], genes: Sequence[str]) -> None:
    """Refuse a matrix whose spots have the ids of genes, or whose genes those of spots.

    Raises
    ------
    SourceFaultError
        B040: more than half of the ids of one axis are plainly those of the other.
    """
    n_genes = sum(ENSEMBL.fullmatch(name) is not None for name in barcodes)
    n_spots = sum(_BARCODE.fullmatch(name) is not None for name in genes)
    if 2 * n_genes > len(barcodes) or (genes and 2 * n_spots > len(genes)):
        what = f"spots are called like genes ({barcodes[0]!r:.40}), or genes like spots"
        raise SourceFaultError("B040", "", what, "transpose the matrix: rows are spots")


def require_genes(genes: Sequence[str]) -> None:
    """Check that gene ids are plain and more than the numbers of their rows.

    Raises
    ------
    SourceFaultError
        B074: an id that is empty, too long or not printable; or ids that merely count the genes.
    """
    if bad := [g for g in genes if not g or not g.isprintable() or len(g) > _LONGEST_ID]:
        what = f"{len(bad):,} gene ids are empty, too long or not printable (first: {bad[0]!r:.80})"
        raise SourceFaultError("B074", "", what, "give each gene a plain id")
    n, found = len(genes), set(genes)
    for first in (0, 1):
        if n > 1 and found == {str(i) for i in range(first, first + n)}:
            what = (
                f"the ids of the {n:,} genes are the numbers {first} to {first + n - 1}: their "
                "names were lost, and equal numbers of two slices would be one gene"
            )
            fix = "write the names of the genes; --gene-id-column NAME, where a column has them"
            raise SourceFaultError("B074", "", what, fix)


def require_labels(labels: Sequence[str | None] | None) -> None:
    """Check that labels are plain text.

    Raises
    ------
    SourceFaultError
        B091: a label that is too long or not printable.
    """
    known = {label for label in labels or () if label is not None}
    bad = sorted(label for label in known if not label.isprintable() or len(label) > _LONGEST_ID)
    if bad:
        what = f"{len(bad):,} labels are too long or not printable (first: {bad[0]!r:.80})"
        raise SourceFaultError("B091", "", what, "give each class a plain name")
