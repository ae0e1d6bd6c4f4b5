"""Configuration of the builder: what changes bytes, and the presets.

How a grid is made is :class:`GridConfig`; how shards are made is
:class:`stbuild.corpus.documents.ShardConfig`. Everything else is only a command flag.
"""

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document

Layout = Literal["auto", "hex-offset", "quincunx-offset", "square", "rank", "px100", "bin"]
Format = Literal["auto", "h5ad", "anndata-zarr", "spaceranger", "table", "imaging", "spatialdata"]


class GridConfig(Document):
    """What decides the content of a grid, given its source."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    format: Format = "auto"
    """Format of the source; auto looks at the path."""
    layout: Layout = "auto"
    """Mapping of spots to grid cells; auto detects it and shows the evidence."""
    coords: Literal["auto", "array", "positions"] = "auto"
    """Detect the lattice from array coordinates or from positions; auto prefers whole numbers."""
    pitch: float | None = Field(None, gt=0)
    """Distance of neighbouring spots in the source's own unit, to recognise their lattice by; none
    given, it is estimated."""
    bin_size: float | None = Field(None, gt=0)
    """Side of a bin of layout bin, in micrometres where the source's unit is known in them,
    else in its own unit; none given, the mean spacing of the spots."""
    collisions: Literal["error", "sum", "first"] = "error"
    """Spots that share a grid cell: refuse, sum their counts, or keep the first by id."""
    off_grid: Literal["error", "drop"] = "error"
    """Spots without a finite position, or too far from any lattice site: refuse or drop."""
    max_gap: int = Field(3, ge=1, lt=2**63)
    """Widest gap, in pitches, that a rank layout closes without a word."""
    gaps: Literal["insert", "cut"] = "insert"
    """Wider gaps: insert as many empty rows or columns as are missing, or set the parts so far
    apart that no window ever sees two of them."""
    force: bool = False
    """Build slices that the occupancy gate refuses."""
    layer: str | None = None
    """Where the counts are: X (none given), 'raw', or a key of layers."""
    sum_duplicates: bool = False
    """Sum entries that a sparse matrix stores twice, instead of refusing them."""
    label: str | None = None
    """Column with the labels, of obs or of the label table; none given, the grid has none."""
    gene_id_column: str | None = None
    """Column of var with the gene ids; none given, the index of var."""
    gene_ids: Literal["source", "ensembl", "symbol"] = "source"
    """Ids of the grid: as the source has them, or mapped by the gene table or by the source's own
    pairs of id and name."""
    strip_version: bool = False
    """Cut the version off Ensembl ids (ENSG00000000003.15)."""
    unmangle: bool = False
    """Undo what R's make.names did to symbols (X1.2, dots for hyphens), where the gene table or
    the other names tell what they were."""
    duplicate_genes: Literal["drop", "sum", "error"] = "drop"
    """Genes whose id stands more than once: leave them out (their molecules stay in the library
    sizes), sum them, or refuse."""
    mixed_species: bool = False
    """Allow human and mouse genes in one slice or corpus."""
    off_tissue: Literal["drop", "keep"] = "drop"
    """What to do with spots whose in_tissue is 0."""
    pitch_um: float | None = Field(None, gt=0)
    """Distance of neighbouring spots in micrometres, where known."""


PAPER_GRID: Final[dict[str, Any]] = {"layout": "rank"}
"""Preset ``paper``: Eq. 5 as printed."""

PAPER_SHARDS: Final[dict[str, Any]] = {
    "window": 16,
    "genes": 512,
    "select": "weighted",
    "holes": "zero",
    "min_fill": 0.0,
}
"""Preset ``paper``: Algorithm 1 as printed, unobserved sites counted as zeros, any origin."""
