"""A slice in memory, as a source hands it over: counts, ids, positions, labels.

Nothing here knows file formats or grids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.corpus.documents import SourceFile

Unit = Literal["um", "pixel", "array"]


@dataclass(frozen=True, kw_only=True)
class SliceRecord:
    """What the user says about a slice: where it is and what it belongs to."""

    name: str
    """Id as given; unique within a run."""
    slug: str
    """The id in the form that keys and files use."""
    path: str
    """File or folder to read."""
    source_name: str
    """Path as published: relative to the manifest, or the bare file name."""
    base: str = ""
    """Folder that published paths are relative to; empty, bare names are published."""
    split: str = "train"
    donor: str | None = None
    section: str | None = None
    pair: str | None = None
    """Pair of adjacent sections that the slice belongs to."""
    species: str | None = None
    tissue: str | None = None
    platform: str | None = None
    licence: str | None = None
    positions: str | None = None
    """Table of coordinates that belongs to a table of counts."""
    labels_file: str | None = None
    """Table of labels, by barcode or by coordinates."""
    split_by: str | None = None
    """Column of obs that tells the sections of one file apart."""
    part: str | None = None
    """Value of that column: the section that this slice is."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the grid configuration for this slice alone, such as its layout."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something the user should know that stops nothing: a warning with a count."""

    code: str
    subject: str
    what: str

    def __str__(self) -> str:
        return f"warning[{self.code}] {self.subject}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Counts of N spots over K genes, all of one section, before any grid.

    Spots are those with at least one count, in the source's order; genes have unique ids.
    """

    counts: csr_array
    """(N, K) uint32, sorted indices, no explicit zeros; maybe mapped from a scratch file."""
    genes: Sequence[str]
    """(K,) gene ids, sorted."""
    totals: NDArray[np.int64]
    """(N,) counts over all genes of the source, dropped genes included."""
    barcodes: Sequence[str]
    """(N,) unique spot ids."""
    array_row: NDArray[np.int64] | None
    """(N,) array row, where the source has integer array coordinates."""
    array_col: NDArray[np.int64] | None
    xy: NDArray[np.float64] | None
    """(N, 2) position (x, y) in `unit`, NaN where a spot has none; None where none has."""
    unit: Unit = "pixel"
    """``pixel`` is whatever the source uses; ``array`` means lattice steps."""
    um_per_unit: float | None = None
    """Micrometres per unit of `xy`, where known."""
    pitch_um: float | None = None
    """Distance of neighbouring spots in micrometres, where the platform fixes it."""
    labels: Sequence[str | None] | None
    """(N,) label per spot, None = none; None altogether where no column was asked for."""
    sources: tuple[SourceFile, ...]
    """Every file that was read."""
    ledger: dict[str, int] = field(default_factory=dict)
    """Spots and molecules of the source, and each that was dropped, by reason."""
    notices: tuple[Notice, ...] = ()
