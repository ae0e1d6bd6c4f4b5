"""What a source holds of one section, as every reader hands it over: nothing dropped, all checked.

Readers know file formats; which spots and genes are kept is decided in
:mod:`stbuild.reading.intake`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.counts import gather
from stbuild.slices import Notice, Unit


@dataclass(frozen=True, kw_only=True)
class RawSlice:
    """N spots over K genes in the source's order.

    Attributes are checked by the reader: one entry per spot or gene, text without control
    characters, counts that are counts. Ids may repeat; positions may be NaN.
    """

    counts: csr_array
    """(N, K) uint32, sorted indices, no explicit zeros, no duplicate entries."""
    barcodes: Sequence[str]
    """(N,) spot ids."""
    genes: Sequence[str]
    """(K,) gene ids: the column that was asked for, or the source's own first id."""
    gene_names: Sequence[str] | None = None
    """(K,) the other name of each gene where the source has two (symbol beside Ensembl id)."""
    gene_types: Sequence[str] | None = None
    """(K,) what the source calls the type of each feature, empty where it has none; None where it
    knows of none, or the reader has left out all that are no genes."""
    array: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """Array coordinates (row, col), each (N,), maybe fractional, NaN where a spot has none."""
    xy: NDArray[np.float64] | None = None
    """(N, 2) position (x, y), NaN where a spot has none."""
    unit: Unit = "pixel"
    """Unit of `xy`; ``pixel`` is whatever the source uses, ``array`` means lattice steps."""
    um_per_unit: float | None = None
    """Micrometres per unit of `xy`, where the source says so."""
    pitch_um: float | None = None
    """Distance of neighbouring spots in micrometres, where the platform fixes it."""
    in_tissue: NDArray[np.bool_] | None = None
    """(N,) whether a spot lies on the tissue."""
    placed: NDArray[np.bool_] | None = None
    """(N,) whether the source says where a spot is; those that it does not place count as off the
    tissue, by a reason of their own. None where all are placed."""
    labels: Sequence[str | None] | None = None
    """(N,) label per spot, None = none; None altogether where none were asked for."""
    files: tuple[Path, ...]
    """Every file that was read, sorted: what the digest of the source is taken over."""
    ledger: dict[str, int] = field(default_factory=dict)
    """What did not match, by name, such as ``positions_without_counts``; integers only."""
    notices: tuple[Notice, ...] = ()
    sections: tuple[str, Sequence[str]] | None = None
    """A column that may tell several sections apart and its (N,) values, where there is one."""

    planes: tuple[str | None, Sequence[str]] | None = None
    """A column of depths beside the positions and its (N,) values, empty where a spot has none;
    None in place of a name for the third column of positions in obsm."""

    def take(self, rows: NDArray[np.int64], scratch: Path | None = None) -> "RawSlice":
        """Return some spots alone, in the given order."""
        n, numbers = len(self.barcodes), rows.tolist()
        array, labels = self.array, self.labels
        sections, planes = self.sections, self.planes
        return replace(
            self,
            counts=gather(self.counts, rows, scratch) if rows.size < n else self.counts,
            barcodes=[self.barcodes[i] for i in numbers],
            array=None if array is None else (array[0][rows], array[1][rows]),
            xy=None if self.xy is None else self.xy[rows],
            in_tissue=None if self.in_tissue is None else self.in_tissue[rows],
            placed=None if self.placed is None else self.placed[rows],
            labels=None if labels is None else [labels[i] for i in numbers],
            sections=None if sections is None else (sections[0], [sections[1][i] for i in numbers]),
            planes=None if planes is None else (planes[0], [planes[1][i] for i in numbers]),
        )
