"""From a path to a slice: reader, labels, intake; in this process or in a child with limits."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stbuild.config import GridConfig
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.errors import BadInputError
from stbuild.genes.tables import read_gene_table
from stbuild.reading.intake import take_in
from stbuild.reading.provenance import FileState, file_states
from stbuild.slices import Slice, SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.formats import read_source
from stbuild.sources.raw import RawSlice

if TYPE_CHECKING:
    from stbuild.reading.jail import Limits


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """How one slice is read: what decides its content, and what does not."""

    record: SliceRecord
    config: GridConfig
    table: Path | None = None
    """Gene table, where ids are mapped; its digest stands in the sources."""
    limits: "Limits | None" = None
    """Read in a child process with these limits; None reads in this process."""


def read_here(
    record: SliceRecord,
    config: GridConfig,
    table: Path | None = None,
    scratch: Path | None = None,
) -> Slice:
    """Read one slice in this process.

    Raises
    ------
    BadInputError
        Every fault of the source; or that it changed in the meantime.
    PlatformError
        A package that its format needs is not installed.
    """
    before = file_states(record)
    try:
        raw = read_source(record, config, scratch)
        _require_listed(record, raw)
        if table is not None:
            raw = replace(raw, files=(*raw.files, table))
        genes = None if table is None else read_gene_table(table)
        st_slice = take_in(record, config, raw, genes, scratch)
        _require_unchanged(record, before)
    except SourceFaultError as fault:
        raise BadInputError(fault.problem(record.name, record.path)) from None
    return st_slice


def _require_unchanged(record: SliceRecord, before: Mapping[Path, FileState]) -> None:
    """Refuse a slice of which a part may be older than the digest of its file."""
    after = file_states(record)
    if changed := sorted(path for path in before if after.get(path) != before[path]):
        what = f"{changed[0].name} changed while it was read"
        fix = "wait until nothing writes to it any more, then run the same command again"
        raise SourceFaultError("B012", "", what, fix)


def _require_listed(record: SliceRecord, raw: RawSlice) -> None:
    """Refuse to take a file for one slice whose sections could not be listed."""
    if record.split_by is None or record.part is not None:
        return
    _name_sections(record, raw)
    what = f"its sections by '{record.split_by}' could not be listed"
    raise SourceFaultError("B056", "", what, "run the same command again")


def _name_sections(record: SliceRecord, raw: RawSlice) -> list[str]:
    if raw.sections is None:
        what = f"this format has no column '{record.split_by}' to split by"
        raise SourceFaultError("B056", "", what, "--split-by is for AnnData files and tables")
    column, values = raw.sections
    if found := sorted(set(values) - {""}):
        return found
    what = f"no spot has a value in column '{column}' to split by"
    raise SourceFaultError("B056", column, what, "name another with --split-by")


@contextmanager
def open_slice(task: ReadTask, scratch: Path | None = None) -> Iterator[Slice]:
    """Read one slice as the task says; use its counts inside the ``with`` block.

    Parameters
    ----------
    task
        The slice.
    scratch
        Folder for large counts and for what a child hands over; None takes the system's.
    """
    if scratch is not None:
        guard_disk(scratch, lambda: scratch.mkdir(parents=True, exist_ok=True))
    if task.limits is None:
        yield read_here(task.record, task.config, task.table, scratch)
        return
    from stbuild.reading.jail import read_jailed

    place = scratch or Path(tempfile.gettempdir())
    with read_jailed(task.record, task.config, task.table, task.limits, place) as st_slice:
        yield st_slice


def list_sections(record: SliceRecord, config: GridConfig) -> list[str]:
    """Return the sections of a file that is to be split, sorted.

    Raises
    ------
    BadInputError
        The file cannot be read, or has no such column.
    """
    try:
        # Labels are joined to the spots of one section, whose ids may stand in the others too.
        bare = replace(record, labels_file=None)
        raw = read_source(bare, config.model_copy(update={"label": None}))
        return _name_sections(record, raw)
    except SourceFaultError as fault:
        raise BadInputError(fault.problem(record.name, record.path)) from None
