"""Configuration of the builder: what changes bytes, and the presets.

How a grid is made is :class:`GridConfig`; how shards are made is
:class:`stbuild.corpus.documents.ShardConfig`. Everything else is only a command flag.
"""

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document

Layout = Literal["auto", "hex-offset", "square", "rank"]


class GridConfig(Document):
    """What decides the content of a grid, given its source."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    layout: Layout = "auto"
    """Mapping of spots to grid cells; auto detects it and shows the evidence."""
    layer: str | None = None
    """Where the counts are: X (none given), 'raw', or a key of layers."""
    label: str | None = None
    """obs column with the labels; none given, the grid has no labels."""
    gene_id_column: str | None = None
    """var column with the gene ids; none given, the index of var."""
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
