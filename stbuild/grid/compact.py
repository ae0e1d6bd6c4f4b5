"""Slices to grids: one task per slice, a catalogue at the end.

``compact_slice`` is an ordinary function, safe to repeat; a finished grid whose source and
configuration are unchanged is left alone.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from os.path import realpath
from pathlib import Path
from typing import Any, Final

from stbuild.config import GridConfig
from stbuild.corpus import names
from stbuild.corpus.documents import SourceFile, as_error, read_config
from stbuild.corpus.durable import PARTIAL, remove_leftovers
from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    GateError,
    Problem,
    ResourceError,
    StError,
    merge_errors,
)
from stbuild.corpus.outputs import refuse_foreign
from stbuild.corpus.paths import look_at
from stbuild.grid.catalogue import (
    GRIDS_JSON,
    Catalogue,
    CatalogueEntry,
    read_catalogue,
    write_catalogue,
)
from stbuild.grid.clashes import Candidate, find_clashes
from stbuild.grid.grids import GridMeta
from stbuild.grid.placing import build_grid, placing_notices
from stbuild.grid.store import (
    INVENTORY,
    check_grid,
    grid_fingerprint,
    read_inventory,
    read_meta,
    write_grid,
)
from stbuild.lattices import assign_cells
from stbuild.manifests.manifest import Manifest
from stbuild.reading.jail import Limits
from stbuild.reading.opening import ReadTask, open_slice
from stbuild.reading.provenance import changed_files
from stbuild.slices import Notice, SliceRecord
from stbuild.tasks.pipeline import Outcome, Runner
from stbuild.workspace import (
    clear_scratch,
    hold_folder,
    holder_of,
    refuse_difference,
)

_SAID: Final = (
    "name", "split", "donor", "section", "pair", "species", "tissue", "platform", "licence",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CompactTask:
    """One slice to compact."""

    read: ReadTask
    path: Path
    """The Zarr store to write."""

    @property
    def record(self) -> SliceRecord:
        """What the user says about the slice."""
        return self.read.record

    @property
    def name(self) -> str:
        """Id of the slice, for messages."""
        return self.record.name

    @property
    def mark(self) -> Path:
        """File of the run that a worker must see."""
        return holder_of(self.path.parent / names.WORK_DIR)


@dataclass(frozen=True, kw_only=True)
class GridReport:
    """What became of one slice."""

    slug: str
    fingerprint: str
    content: str
    layout: str
    evidence: str
    shape: tuple[int, int]
    n_spots: int
    n_genes: int
    n_labelled: int
    n_bytes: int
    reused: bool
    ledger: dict[str, int]
    notices: tuple[Notice, ...]


def slice_config(record: SliceRecord, base: GridConfig) -> GridConfig:
    """Return the grid configuration of one slice: its own columns override the run's.

    Raises
    ------
    BadUsageError
        A value of the sample sheet that the configuration does not allow.
    """
    return read_config(GridConfig, base.model_dump() | dict(record.grid), f"slice '{record.name}'")


def compact_slice(task: CompactTask) -> GridReport:
    """Read one slice, place it on its grid, write the grid; or reuse the finished one.

    Raises
    ------
    BadInputError, GateError
        The slice is refused; the message says why.
    IntegrityError
        A finished grid was damaged.
    ResourceError
        The disk refuses.
    """
    if (report := reuse_grid(task)) is not None:
        return report
    record, config = task.record, task.read.config
    scratch = task.path.parent / names.WORK_DIR
    with open_slice(task.read, scratch) as st_slice:
        lattice = assign_cells(record, st_slice, config)
        grid = build_grid(record, config, st_slice, lattice, scratch, task.read.table)
        fingerprint = _fingerprint(task, st_slice.sources)
        write_grid(task.path, grid, fingerprint)
    notices = (*st_slice.notices, *placing_notices(grid.meta))
    return _report(task.path, fingerprint, reused=False, notices=notices)


def reuse_grid(task: CompactTask) -> GridReport | None:
    """Return the report of a finished, whole grid of this very task, or None.

    Raises
    ------
    ConflictError
        The grid there was made from another source or with another configuration.
    """
    inventory = read_inventory(task.path)
    if inventory is None or look_at(Path(task.record.path)).fault:
        return None
    meta = read_meta(task.path)
    changed = _changed(task, meta)
    if changed or inventory.fingerprint != _fingerprint(task, meta.sources):
        raise refuse_difference(
            task.path, f"grid '{task.record.slug}'", changed or ["the source's name has changed"]
        )
    if check_grid(task.path):
        return None
    return _report(task.path, inventory.fingerprint, reused=True, notices=())


def _fingerprint(task: CompactTask, sources: Sequence[SourceFile]) -> str:
    left_out = {"path", "base", "positions", "labels_file", "grid"}
    record = {k: v for k, v in asdict(task.record).items() if k not in left_out}
    files = [[file.name, file.sha256] for file in sources]
    config = task.read.config.model_dump(mode="json")
    return grid_fingerprint(files, config, record)


def _changed(task: CompactTask, meta: GridMeta) -> list[str]:
    old, new = meta.config.model_dump(), task.read.config.model_dump()
    found = [f"{key}: {old[key]} -> {new[key]}" for key in old if old[key] != new[key]]
    for key in _SAID:
        pair = getattr(meta, key), getattr(task.record, key)
        found += [f"{key}: {pair[0]} -> {pair[1]}"] if pair[0] != pair[1] else []
    record = task.record
    named = (record.positions, record.labels_file, task.read.table)
    others = [Path(name) for name in named if name is not None]
    files = changed_files(record, meta.sources, others)
    if files:
        listed = ", ".join(files[:3])
        found.append(f"the source file has changed ({listed})")
    return found


def _report(
    path: Path, fingerprint: str, *, reused: bool, notices: tuple[Notice, ...]
) -> GridReport:
    meta, inventory = read_meta(path), read_inventory(path)
    return GridReport(
        slug=meta.slug,
        fingerprint=fingerprint,
        content=meta.content,
        layout=meta.layout,
        evidence=meta.evidence,
        shape=meta.shape,
        n_spots=meta.n_spots,
        n_genes=meta.n_genes,
        n_labelled=meta.n_labelled,
        n_bytes=sum(file.bytes for file in inventory.files) if inventory else 0,
        reused=reused,
        ledger=meta.ledger,
        notices=notices,
    )


@dataclass(frozen=True, kw_only=True)
class CompactSummary:
    """What a run of ``compact`` did."""

    reports: tuple[GridReport, ...]
    rejected: tuple[StError, ...]
    """Errors of the slices that were left out (only when asked to skip them)."""


def compact(
    manifest: Manifest,
    base: GridConfig,
    out: Path,
    runner: Runner,
    *,
    table: Path | None = None,
    limits: Limits | None = None,
    skip_bad: bool = False,
    done: Callable[[], None] = lambda: None,
) -> CompactSummary:
    """Compact all slices of a manifest into a folder of grids.

    Parameters
    ----------
    manifest
        The slices.
    base
        Configuration of the run; a slice's own columns override it.
    out
        Folder of the grids.
    runner
        How tasks are run.
    table
        Gene table, where ids are to be mapped.
    limits
        Read each slice in a child process with these limits; None reads in the worker itself.
    skip_bad
        Leave rejected slices out instead of stopping; they are listed in the summary. What is no
        slice's fault, such as a full disk, stops the run all the same.
    done
        Called after each slice.

    Raises
    ------
    BadUsageError
        The folder lies inside of a source.
    ConflictError
        `out` holds something else, or another run holds it.
    StError
        Every problem of every slice at once. Grids of good slices are kept, but there is no
        catalogue until all slices are in.
    """
    records = sorted(manifest.records, key=lambda record: record.slug)
    _refuse_inside(out, records)
    tasks = [
        CompactTask(
            read=ReadTask(
                record=record, config=slice_config(record, base), table=table, limits=limits
            ),
            path=(out / f"{record.slug}.zarr").absolute(),
        )
        for record in records
    ]
    if (finished := _finished(out, tasks)) is not None:
        return CompactSummary(reports=finished, rejected=())
    refuse_foreign(out, "grids", mark=_is_ours)
    with hold_folder(out):
        outcomes: list[Outcome[GridReport]] = runner(compact_slice, tasks, done)
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        reports = tuple(outcome.result for outcome in outcomes if outcome.result is not None)
        clashes = _find_clashes(out, reports, tasks)
        reports = tuple(report for report in reports if report.slug not in clashes)
        if error := as_error(clashes.values(), BadInputError):
            errors.append(error)
        lasting = [error for error in errors if not (skip_bad and _is_of_the_slice(error))]
        if lasting or (errors and not reports):
            raise merge_errors(lasting or errors)
        for left_out in clashes:
            shutil.rmtree(out / f"{left_out}.zarr")
        entries = tuple(
            CatalogueEntry(slug=r.slug, fingerprint=r.fingerprint, content=r.content)
            for r in reports
        )
        shard: dict[str, Any] = dict(manifest.shard)
        remove_leftovers(out)
        _require_standing(out, reports)
        write_catalogue(out, Catalogue(name=manifest.name, shard=shard, grids=entries))
        clear_scratch(out)
    return CompactSummary(reports=reports, rejected=tuple(errors))


def _refuse_inside(out: Path, records: Sequence[SliceRecord]) -> None:
    """Refuse to write into a source: that would change it, and the next run would read it."""
    place = Path(realpath(out))  # pathlib's own raises on links that lead in a circle
    problems = [
        Problem(
            code="B102",
            subject=f"output '{out.name}'",
            where=str(out),
            what=f"it lies inside of slice '{record.name}' ({record.path})",
            fix="choose a folder of its own with -o",
        )
        for record in records
        if _real_path(record.path) in map(str, (place, *place.parents))
    ]
    if error := as_error(problems, BadUsageError):
        raise error


def _real_path(path: str) -> str:
    try:
        return realpath(path)
    except ValueError:  # no file has such a name: whoever reads the slice says so
        return path


def _is_of_the_slice(error: StError) -> bool:
    """Tell whether a slice is at fault, not the machine: a full disk must not thin out a corpus.

    P04 and P33 are a slice that killed its workers, hung, or wants too much memory, time and again.
    """
    own = {problem.code for problem in error.problems} <= {"P04", "P33"}
    return own or isinstance(error, BadInputError | GateError)


def _is_ours(path: Path) -> bool:
    known = (names.WORK_DIR, GRIDS_JSON)
    return path.name in known or path.suffix == ".zarr" or PARTIAL in path.name


def _require_standing(out: Path, reports: Iterable[GridReport]) -> None:
    """Refuse to list grids that something else took away in the meantime."""
    gone = [r.slug for r in reports if not (out / f"{r.slug}.zarr" / INVENTORY).is_file()]
    if gone:
        what = (
            f"{len(gone):,} grids that were written are gone ({', '.join(gone[:3])}): something "
            "else works in the folder"
        )
        fix = "leave the folder to one run, and run the same command again"
        where = str(out / f"{gone[0]}.zarr")
        raise ResourceError(
            Problem(code="P05", subject=f"output '{out.name}'", where=where, what=what, fix=fix)
        )


def _finished(out: Path, tasks: list[CompactTask]) -> tuple[GridReport, ...] | None:
    """Return all reports if the folder already holds exactly these grids, else None."""
    if not (out / GRIDS_JSON).is_file():
        return None
    slugs = {task.record.slug for task in tasks}
    listed = {entry.slug for entry in read_catalogue(out).grids}
    if others := sorted(listed - slugs):
        named = ", ".join(others[:5])
        raise refuse_difference(out, f"grids '{out.name}'", [f"it also has slice {named}"])
    reports = [reuse_grid(task) for task in tasks] if listed == slugs else [None]
    whole = tuple(report for report in reports if report is not None)
    return whole if len(whole) == len(tasks) else None


def _find_clashes(
    out: Path, reports: Iterable[GridReport], tasks: Iterable[CompactTask]
) -> dict[str, Problem]:
    paths = {task.record.slug: task.record.path for task in tasks}
    return find_clashes(
        [
            Candidate(
                slug=report.slug,
                path=paths[report.slug],
                content=report.content,
                sources=read_meta(out / f"{report.slug}.zarr").sources,
            )
            for report in reports
        ]
    )
