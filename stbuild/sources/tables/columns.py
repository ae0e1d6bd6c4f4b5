"""What the columns of text tables are called on the platforms: ids, coordinates, controls.

Names are compared without case. Nothing is read here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stbuild.slices import Unit

IDS: Final = frozenset({
    "", "barcode", "barcodes", "bead", "bead_barcode", "beads", "cell", "cell_barcode", "cell_id",
    "cellid", "cells", "entityid", "id", "index", "row.names", "rownames", "spot",
    "spot_barcode", "spot_id", "spotid", "spots", "unnamed: 0",
})  # fmt: skip
"""Names of columns that hold the ids of spots."""
_VAGUE: Final = frozenset({"", "id", "index", "row.names", "rownames", "unnamed: 0"})
"""Those of them that row numbers have too, as pandas and R write them."""
GENE_IDS: Final = frozenset({
    "ensembl", "ensembl_id", "ensemblid", "feature", "feature_id", "gene", "gene_id", "gene_name",
    "gene_names", "gene_symbol", "geneid", "genename", "genes", "name", "names", "symbol",
    "symbols", "target",
})  # fmt: skip
"""Names of columns that hold the ids of genes, where genes are rows."""
GENE_NAMES: Final = frozenset({
    "gene_name", "gene_names", "gene_symbol", "genename", "name", "names", "symbol", "symbols",
})  # fmt: skip
"""Those of them that hold a name beside an id."""
TISSUE: Final = ("selected", "in_tissue", "tissue", "intissue")
"""Names of columns that say whether a spot lies on the tissue, in order of preference."""
SECTIONS: Final = (
    "section", "section_id", "sample", "sample_id", "sample_name", "library_id", "slice",
    "slice_id", "slide", "slide_id",
)  # fmt: skip
"""Names of columns that tell the sections of one table apart."""
_DEPTHS: Final = (
    "z", "z_um", "center_z", "z_centroid", "centroid_z", "sdimz", "zcoord", "z_coord", "coord_z",
    "spatial_z", "spatial_3", "z_location", "pos_z", "z_plane", "z_index", "z_level", "plane",
)  # fmt: skip
"""Names of columns that say, beside x and y, how deep a spot lies."""
LABELS: Final = (
    "label", "labels", "annotation", "annotations", "ground_truth", "layer", "layer_guess",
    "region", "cluster", "clusters", "cell_type", "celltype", "class", "pathology",
)  # fmt: skip
"""Names of columns that hold labels, in order of preference."""
_OTHERS: Final = frozenset({
    "area", "chr", "chrom", "chromosome", "description", "end", "fov", "gene_biotype",
    "gene_type", "height", "in_tissue", "leiden", "length", "louvain", "n_counts", "n_genes",
    "ncount_rna", "ncount_spatial", "nfeature_rna", "nfeature_spatial", "orig.ident", "selected",
    "seurat_clusters", "start", "strand", "total_counts", "volume", "width",
})  # fmt: skip
_CONTROL: Final = re.compile(
    r"Blank[-_]?\d+|BLANK_\w+|NegPrb\w*|Negative\d+|SystemControl\d+|FalseCode\d+"
    r"|NegControl(Probe|Codeword)_\w+|UnassignedCodeword_\d+|DeprecatedCodeword_\d+"
    r"|Intergenic_Region_\d+|antisense_\w+"
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two columns that hold x and y."""

    x: int
    y: int
    unit: Unit
    name: str
    """Name of the x column."""


_PAIRS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("pxl_col_in_fullres", "pxl_row_in_fullres", "pixel"),
    ("pixel_x", "pixel_y", "pixel"),
    ("pxl_x", "pxl_y", "pixel"),
    ("pxl_col", "pxl_row", "pixel"),
    ("imagecol", "imagerow", "pixel"),
    ("centerx_global_px", "centery_global_px", "pixel"),
    ("x_global_px", "y_global_px", "pixel"),
    ("x_centroid", "y_centroid", "um"),
    ("centroid_x", "centroid_y", "pixel"),
    ("center_x", "center_y", "um"),
    ("sdimx", "sdimy", "pixel"),
    ("xcoord", "ycoord", "pixel"),
    ("x_coord", "y_coord", "pixel"),
    ("coord_x", "coord_y", "pixel"),
    ("spatial_x", "spatial_y", "pixel"),
    ("spatial_1", "spatial_2", "pixel"),
    ("x_location", "y_location", "um"),
    ("pos_x", "pos_y", "pixel"),
    ("x_um", "y_um", "um"),
    ("new_x", "new_y", "array"),
    ("x", "y", "pixel"),
    ("array_x", "array_y", "array"),
)
_ARRAYS: Final = (("array_col", "array_row"), ("col", "row"), ("column", "row"))


def fold(names: Sequence[str]) -> list[str]:
    """Return names as they are compared: without case, quotes and space around them."""
    return [name.strip().strip('"').lower() for name in names]


def find(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the place of the first wanted name that stands there, or None."""
    folded = fold(names)
    return next((folded.index(name) for name in wanted if name in folded), None)


def find_position(names: Sequence[str]) -> Pair | None:
    """Return the best pair of columns with positions, or None."""
    folded = fold(names)
    for x, y, unit in _PAIRS:
        if x in folded and y in folded:
            # Only the cell table of MERSCOPE says that its centres are micrometres.
            if x == "center_x" and not {"entityid", "volume"} & set(folded):
                unit = "pixel"
            return Pair(x=folded.index(x), y=folded.index(y), unit=unit, name=x)
    return None


def find_array(names: Sequence[str]) -> Pair | None:
    """Return the columns of array coordinates (x = column, y = row), or None."""
    folded = fold(names)
    for x, y in _ARRAYS:
        if x in folded and y in folded:
            return Pair(x=folded.index(x), y=folded.index(y), unit="array", name=x)
    return None


def find_depth(names: Sequence[str]) -> int | None:
    """Return the column of z beside columns of x and y, or None."""
    return None if find_position(names) is None else find(names, _DEPTHS)


def find_keys(names: Sequence[str]) -> Pair | None:
    """Return the columns x, y where they name the spots of an ST array, or None.

    They do beside adjusted or pixel coordinates, as in the selection and alignment tables of ST.
    """
    folded = fold(names)
    others = {"new_x", "pixel_x", "selected"} & set(folded)
    if {"x", "y"} <= set(folded) and others:
        return Pair(x=folded.index("x"), y=folded.index("y"), unit="array", name="x")
    return None


def find_composite(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the columns fov and cell_ID of CosMx, which name a cell together, or None.

    AtoMx writes a column ``cell_id`` too, which names a cell alone.
    """
    folded = fold(names)
    if "fov" not in folded or "cell_id" not in folded:
        return None
    exact = [name.strip().strip('"') for name in names]
    own = exact.index("cell_ID") if "cell_ID" in exact else folded.index("cell_id")
    return folded.index("fov"), own


def find_ids(names: Sequence[str]) -> list[int]:
    """Return the columns that are called as ids of spots are; names of row numbers come last."""
    folded = fold(names)
    usual = [i for i, name in enumerate(folded) if name in IDS]
    return sorted(usual, key=lambda i: folded[i] in _VAGUE)


def find_id(names: Sequence[str]) -> int | None:
    """Return the column that likely names the spots: the first of a usual name, or None."""
    return next(iter(find_ids(names)), None)


def is_vague(name: str) -> bool:
    """Tell whether a folded name of ids is one that row numbers have too."""
    return name in _VAGUE


def known_columns(names: Sequence[str]) -> set[int]:
    """Return the columns whose names say what they are: coordinates, totals, annotations.

    A lone ``x`` or ``y`` may be a gene of the fly; as a pair they are coordinates, and so is ``z``
    beside them.
    """
    folded = fold(names)
    found = {i for i, name in enumerate(folded) if name in _OTHERS}
    for x, y in (*((x, y) for x, y, _ in _PAIRS), *_ARRAYS):
        if x in folded and y in folded:
            found |= {i for i, name in enumerate(folded) if name in (x, y)}
    depth = find_depth(names)
    return found if depth is None else found | {depth}


def no_genes(names: Sequence[str]) -> set[int]:
    """Return the columns whose names say that they are no genes, labels and sections included."""
    folded = fold(names)
    more = {i for i, name in enumerate(folded) if name in LABELS or name in SECTIONS}
    return known_columns(names) | more


def is_control(gene: str) -> bool:
    """Tell whether a feature is a control or blank of an imaging platform."""
    return _CONTROL.fullmatch(gene) is not None
