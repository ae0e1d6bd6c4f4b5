"""``plan``: what would be built from each slice, and what would be refused, before any work.

Files are read and placed on their grids in memory; nothing is written.
"""

from dataclasses import dataclass

import numpy as np

from stbuild.compact import slice_config
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.grids import build_grid
from stbuild.lattices import assign_cells
from stbuild.manifests import Manifest
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.h5ad import read_h5ad
from stbuild.windows import window_fill

_BYTES_PER_COUNT = 0.21
"""Compressed bytes per site and gene channel of a patch, measured on her2st and DLPFC."""


@dataclass(frozen=True, kw_only=True)
class SlicePlan:
    """One row of the plan."""

    name: str
    slug: str
    split: str
    layout: str
    kind: str
    evidence: str
    shape: tuple[int, int]
    occupancy: float
    median_fill: int
    """Observed sites of the median window that holds any."""
    n_spots: int
    n_genes: int
    n_labelled: int
    median_total: int
    """Median library size of a spot."""
    dense_bytes: int
    """Memory of the dense counts while the slice is cut."""
    n_patches: int
    shard_bytes: int
    """Expected bytes in shards."""
    genes: frozenset[str]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, kw_only=True)
class PlanTask:
    """One slice to look at."""

    record: SliceRecord
    config: GridConfig
    shard: ShardConfig

    @property
    def name(self) -> str:
        """Id of the slice, for messages."""
        return self.record.name


def plan_tasks(manifest: Manifest, grid: GridConfig, shard: ShardConfig) -> list[PlanTask]:
    """Return one task per slice, sorted by slug."""
    return [
        PlanTask(record=record, config=slice_config(record, grid), shard=shard)
        for record in sorted(manifest.records, key=lambda record: record.slug)
    ]


def plan_slice(task: PlanTask) -> SlicePlan:
    """Look at one slice.

    Raises
    ------
    BadInputError, GateError
        The slice would be refused; the message says why.
    """
    record, shard = task.record, task.shard
    st_slice = read_h5ad(record, task.config)
    lattice = assign_cells(record, st_slice, task.config.layout)
    grid = build_grid(record, task.config, st_slice, lattice)
    fill = window_fill(grid.occupied(), shard.window)
    n_patches = shard.n_per_slice or 0
    side = shard.window
    itemsize = 2 if int(grid.counts.data.max(initial=0)) < 2**16 else 4
    return SlicePlan(
        name=record.name,
        slug=record.slug,
        split=record.split,
        layout=lattice.layout,
        kind=lattice.kind,
        evidence=lattice.evidence,
        shape=lattice.shape,
        occupancy=lattice.occupancy,
        median_fill=int(np.median(fill[fill > 0])),
        n_spots=grid.meta.n_spots,
        n_genes=grid.meta.n_genes,
        n_labelled=grid.meta.n_labelled,
        median_total=int(np.median(grid.totals)),
        dense_bytes=itemsize * grid.meta.n_genes * lattice.shape[0] * lattice.shape[1],
        n_patches=n_patches,
        shard_bytes=int(n_patches * (6144 + _BYTES_PER_COUNT * side * side * shard.genes)),
        genes=frozenset(grid.genes),
        notices=st_slice.notices,
    )


def shared_genes(plans: list[SlicePlan]) -> tuple[int, int]:
    """Return the size of the union and of the intersection of the slices' genes."""
    if not plans:
        return 0, 0
    sets = [plan.genes for plan in plans]
    return len(frozenset.union(*sets)), len(frozenset.intersection(*sets))
