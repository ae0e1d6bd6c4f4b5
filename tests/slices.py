"""Writers of small synthetic slices, as ``.h5ad`` files and in memory, for the tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from stbuild.config import GridConfig
from stbuild.corpus.names import slugify
from stbuild.grid.grids import Grid
from stbuild.grid.placing import build_grid
from stbuild.lattices import assign_cells
from stbuild.reading.opening import read_here
from stbuild.slices import SliceRecord


@dataclass
class Spec:
    """What a synthetic slice is like."""

    kind: str = "hex"
    rows: int = 20
    cols: int = 18
    n_genes: int = 40
    seed: int = 0
    drop: float = 0.1
    """Share of lattice sites without a spot."""
    mean: float = 2.0
    labels: tuple[str, ...] = ("inner", "outer", "rim")
    gene_prefix: str = "GENE"
    extra_obs: dict[str, Any] = field(default_factory=dict)


def make_anndata(spec: Spec) -> anndata.AnnData:
    """Return a slice with genes that vary over the tissue in bands."""
    rng = np.random.default_rng(spec.seed)
    row, col = np.divmod(np.arange(spec.rows * spec.cols), spec.cols)
    if spec.kind == "hex":
        col = 2 * col + row % 2
    keep = rng.random(row.size) >= spec.drop
    row, col = row[keep], col[keep]
    bands = np.sin(row[:, None] / 4 + np.arange(spec.n_genes)[None, :])
    counts = rng.poisson(spec.mean * np.exp(bands)).astype(np.int32)
    counts[:, 0] += 1  # no spot is empty by accident
    width = spec.cols * (2 if spec.kind == "hex" else 1)
    labels = np.asarray(spec.labels)[(col * len(spec.labels)) // width]
    barcodes = [f"{spec.kind}{spec.seed}-{r:03d}x{c:03d}-1" for r, c in zip(row, col, strict=True)]
    obs = pd.DataFrame(
        {"array_row": row, "array_col": col, "in_tissue": 1, "label": pd.Categorical(labels)},
        index=barcodes,
    )
    for name, values in spec.extra_obs.items():
        obs[name] = values
    var = pd.DataFrame(index=[f"{spec.gene_prefix}{i:04d}" for i in range(spec.n_genes)])
    data = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
    pitch = 100.0
    height = pitch * np.sqrt(3) if spec.kind == "hex" else pitch
    step = pitch / 2 if spec.kind == "hex" else pitch
    data.obsm["spatial"] = np.stack(
        [col * step, row * height / (2 if spec.kind == "hex" else 1)], 1
    )
    return data


def write_slice(path: Path, spec: Spec) -> Path:
    """Write a synthetic slice and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_anndata(spec).write_h5ad(path, compression="gzip")
    return path


def record_of(path: Path, **fields: Any) -> SliceRecord:
    """Return the record of a file, as a plain list of files would give it."""
    name = path.stem
    values: dict[str, Any] = {"name": name, "slug": slugify(name), "path": str(path)}
    return SliceRecord(**(values | {"source_name": path.name} | fields))


def grid_of(path: Path, config: GridConfig | None = None, **fields: Any) -> Grid:
    """Read a file and place it on its grid."""
    record, config = record_of(path, **fields), config or GridConfig(label="label", pitch_um=100.0)
    st_slice = read_here(record, config)
    return build_grid(record, config, st_slice, assign_cells(record, st_slice, config))
