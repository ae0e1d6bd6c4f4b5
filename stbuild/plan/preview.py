"""``plan``: what would be built from each slice, and what would be refused, before any work.

Files are read and placed on their grids in memory; a few patches are cut to measure their size
and time. Nothing is written but, on request, a page for people.
"""

import lzma
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig, SourceFile
from stbuild.corpus.errors import BadInputError
from stbuild.corpus.samples import encode_patch, encode_whole
from stbuild.corpus.tar import pack_sample
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.clashes import Candidate, find_clashes
from stbuild.grid.compact import slice_config
from stbuild.grid.grids import Grid
from stbuild.grid.placing import build_grid, placing_notices
from stbuild.lattices import assign_cells
from stbuild.manifests.manifest import Manifest
from stbuild.patches.cropping import whole_sample
from stbuild.patches.cutting import PART_BYTES, cut_slice, plan_windows
from stbuild.plan.thumbnails import SlicePicture, picture_of
from stbuild.reading.jail import Limits
from stbuild.reading.opening import ReadTask, open_slice
from stbuild.slices import Notice
from stbuild.tasks.pipeline import Outcome
from stbuild.windows import window_fill

_SAMPLED: Final = 24
"""Patches that are cut to tell the size of all."""
_GRID_BYTES_PER_SECOND: Final = 250e6
"""Dense counts that are encoded into a grid, hashed and read again, per second of one core."""
_BASE_BYTES: Final = 350 * 2**20
"""A Dask worker with its libraries and nothing read, and what its allocator keeps."""


@dataclass(frozen=True, kw_only=True)
class SlicePlan:
    """One row of the plan."""

    name: str
    slug: str
    split: str
    layout: str
    kind: str
    evidence: str
    measures: dict[str, float]
    shape: tuple[int, int]
    occupancy: float
    median_fill: int
    """Observed sites of the median window that holds any."""
    n_spots: int
    n_members: int
    """Spots or cells of the source in them."""
    n_genes: int
    n_labelled: int
    median_total: int
    """Median library size of a spot."""
    ledger: dict[str, int]
    """What was read, and what was left out by reason."""
    memory_bytes: int
    """Expected peak of a worker."""
    seconds: float
    """Expected time of one core for compacting and cutting."""
    n_patches: int
    shard_bytes: int
    """Expected bytes in shards."""
    content: str
    """Digest of what its grid would hold."""
    sources: tuple[SourceFile, ...]
    genes: bytes
    """All its ids, packed: 36,000 of them are 650 kB, more than should pass a scheduler."""
    notices: tuple[Notice, ...]
    picture: SlicePicture | None = None
    """What a page shows of it, where one is asked for."""

    def as_row(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        left_out = ("content", "sources", "genes", "notices", "picture")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True, kw_only=True)
class PlanTask:
    """One slice to look at."""

    read: ReadTask
    shard: ShardConfig
    pictures: bool = False

    @property
    def name(self) -> str:
        """Id of the slice, for messages."""
        return self.read.record.name


def plan_tasks(
    manifest: Manifest,
    grid: GridConfig,
    shard: ShardConfig,
    *,
    table: Path | None = None,
    limits: Limits | None = None,
    pictures: bool = False,
) -> list[PlanTask]:
    """Return one task per slice, sorted by slug."""
    return [
        PlanTask(
            read=ReadTask(
                record=record, config=slice_config(record, grid), table=table, limits=limits
            ),
            shard=shard,
            pictures=pictures,
        )
        for record in sorted(manifest.records, key=lambda record: record.slug)
    ]


def plan_slice(task: PlanTask) -> SlicePlan:
    """Look at one slice.

    Raises
    ------
    BadInputError, GateError
        The slice would be refused; the message says why.
    """
    record, config, shard = task.read.record, task.read.config, task.shard
    start = time.perf_counter()
    with open_slice(task.read) as st_slice:
        lattice = assign_cells(record, st_slice, config)
        grid = build_grid(record, config, st_slice, lattice, table=task.read.table)
    read_seconds = time.perf_counter() - start
    fill = window_fill(grid.occupied(), shard.window)
    n_patches, shard_bytes, cut_seconds = _measure(grid, shard)
    dense = grid.meta.n_genes * grid.counts.data.itemsize // 2 * grid.meta.shape[0]
    dense *= grid.meta.shape[1]
    return SlicePlan(
        name=record.name,
        slug=record.slug,
        split=record.split,
        layout=lattice.layout,
        kind=lattice.kind,
        evidence=lattice.evidence,
        measures=lattice.measures,
        shape=lattice.shape,
        occupancy=lattice.occupancy,
        median_fill=int(np.median(fill[fill > 0])),
        n_spots=grid.meta.n_spots,
        n_members=grid.meta.n_members,
        n_genes=grid.meta.n_genes,
        n_labelled=grid.meta.n_labelled,
        median_total=int(np.median(grid.totals)),
        ledger=grid.meta.ledger,
        memory_bytes=_BASE_BYTES + 2 * min(dense, PART_BYTES) + 24 * int(grid.counts.nnz),
        seconds=round(read_seconds + dense / _GRID_BYTES_PER_SECOND + cut_seconds, 2),
        n_patches=n_patches,
        shard_bytes=shard_bytes,
        content=grid.meta.content,
        sources=grid.meta.sources,
        genes=pack_genes(grid.genes),
        notices=(*st_slice.notices, *placing_notices(grid.meta)),
        picture=picture_of(grid) if task.pictures else None,
    )


def refuse_clashes(
    tasks: Sequence[PlanTask], outcomes: Sequence[Outcome[SlicePlan]]
) -> list[Outcome[SlicePlan]]:
    """Return the outcomes, refusing the slices that cannot stand beside those before them."""
    candidates = [
        Candidate(
            slug=outcome.result.slug,
            path=task.read.record.path,
            content=outcome.result.content,
            sources=outcome.result.sources,
        )
        for task, outcome in zip(tasks, outcomes, strict=True)
        if outcome.result is not None
    ]
    clashes = find_clashes(candidates)
    return [
        outcome
        if outcome.result is None or outcome.result.slug not in clashes
        else Outcome(result=None, error=BadInputError(clashes[outcome.result.slug]))
        for outcome in outcomes
    ]


def _measure(grid: Grid, config: ShardConfig) -> tuple[int, int, float]:
    """Return the number of patches, their expected bytes in shards, and the seconds to cut them.

    Some patches, evenly spread over all, are cut and encoded; the rest is taken to be like them.
    """
    vocabulary = Vocabulary(tuple(grid.genes))
    start = time.perf_counter()
    windows = plan_windows(grid, config)
    draws = 1 if config.cover is None else config.draws
    step = max(1, len(windows) * draws // _SAMPLED)
    some = windows[step // 2 :: step]
    fixed = time.perf_counter() - start
    sizes, start = [], time.perf_counter()
    for _, patch in cut_slice(grid, vocabulary, grid.meta.label_names, config, windows=some):
        sizes.append(len(pack_sample(patch.meta.key, encode_patch(patch, config.codec))))
    seconds = time.perf_counter() - start
    n_patches = len(windows) * draws
    n_bytes = round(n_patches * float(np.mean(sizes))) if sizes else 0
    if config.whole_slices or config.cover is not None:
        whole = whole_sample(grid, vocabulary, grid.meta.label_names)
        n_bytes += len(pack_sample(whole.meta.key, encode_whole(whole)))
    return n_patches, n_bytes, fixed + seconds * n_patches / max(1, len(sizes))


def pack_genes(genes: Sequence[str]) -> bytes:
    """Return gene ids as compressed lines."""
    return lzma.compress("\n".join(sorted(genes)).encode(), preset=1)


def shared_genes(plans: Sequence[SlicePlan]) -> tuple[int, int]:
    """Return the size of the union and of the intersection of the slices' genes."""
    # Most slices of a collection share a panel: each is unpacked once, and none is kept.
    panels = sorted({plan.genes for plan in plans})
    if not panels:
        return 0, 0
    union: set[str] = set()
    common: set[str] | None = None
    for panel in panels:
        genes = set(lzma.decompress(panel).decode().split("\n"))
        union |= genes
        common = genes if common is None else common & genes
    return len(union), len(common or ())
