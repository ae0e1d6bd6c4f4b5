"""Fetch all sources of a manifest: in parallel, reporting every problem of every file at once.

This is the one way in; the command is a thin client of it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.errors import BadInputError, ConflictError, IntegrityError, Problem, StError
from stbuild.corpus.holder import name_holder, sign_holder
from stbuild.fetch.cache import Cache
from stbuild.fetch.download import Progress, Say
from stbuild.fetch.errors import StoppedError, file_problem, join_errors
from stbuild.fetch.group import Got, Rules, get_group
from stbuild.fetch.plan import Plan, Wanted, fetched_path, read_plan
from stbuild.fetch.record import FetchedDocument, FetchedFile, read_record, write_record
from stbuild.fetch.transport import Options
from stbuild.slices import Notice
from stbuild.workspace import take_lock


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """What a run did."""

    files: tuple[Got, ...]
    """Every file with a URL, in the order of the sheet."""
    n_local: int
    """Files without a URL, which stand at their places."""
    record: Path
    """``NAME.fetched.json``."""
    notices: tuple[Notice, ...]

    def count(self, how: str) -> int:
        """Return how many files were ``downloaded``, ``cached`` or ``kept``."""
        return sum(got.how == how for got in self.files)


def fetch_manifest(
    path: Path,
    *,
    jobs: int = 4,
    allow_unverified: bool = False,
    replace: bool = False,
    cache: Path | None = None,
    options: Options | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda name, total: lambda n_bytes: None,
) -> FetchReport:
    """Bring every source of a manifest to its place, checked by size and SHA-256.

    What stands already is kept, what is half received is gone on with, what fails does not keep
    the others from coming.

    Parameters
    ----------
    path
        The manifest (TOML); sources are placed relative to its sample sheet.
    jobs
        Downloads at a time.
    allow_unverified
        Take files of which no SHA-256 is known; what is found is recorded.
    replace
        Replace files that stand there with another content.
    cache
        Folder of the cache by content; None uses none.
    options
        Attempts, patience, limits.
    say
        Told of failed attempts.
    progress
        Told of bytes.

    Raises
    ------
    BadInputError
        The sheet, a URL, a path, or a null hash. R01 to R03, R09, R10, B022 and others.
    ConflictError
        Another file stands at a place (R04), or another run fetches this manifest (P09).
    IntegrityError
        Another size (R06), another SHA-256 (R07), a bad archive (R08).
    RemoteError
        A file cannot be had (R05).
    """
    plan = read_plan(path)
    record = fetched_path(path)
    rules = Rules(
        allow_unverified=allow_unverified, replace=replace,
        cache=None if cache is None else Cache(cache), options=options or Options(),
        say=say, progress=progress,
    )  # fmt: skip
    with _held(path):
        known = read_record(record)
        local = [error for item in plan.files if (error := _local_fault(item)) is not None]
        got, errors = _get_all(plan, known, rules, jobs)
        _keep_record(plan, record, known, got)
    if faults := [*local, *errors]:
        raise join_errors(faults)
    n_local = sum(item.url is None for item in plan.files)
    files = tuple(got[item.shown] for item in plan.files if item.url is not None)
    return FetchReport(files=files, n_local=n_local, record=record, notices=_notices(plan, got))


def _get_all(
    plan: Plan, known: dict[str, FetchedFile], rules: Rules, jobs: int
) -> tuple[dict[str, Got], list[StError]]:
    got: dict[str, Got] = {}
    errors: list[StError] = []
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="fetch")
    try:
        tasks = [pool.submit(get_group, group, known, rules) for group in plan.downloads()]
        for task in tasks:
            fresh, faults = task.result()
            got |= {item.file.path: item for item in fresh}
            errors += faults
    except (KeyboardInterrupt, StoppedError):
        rules.options.stop.set()
        raise KeyboardInterrupt from None
    finally:
        pool.shutdown(cancel_futures=True)
    return got, errors


@contextmanager
def _held(manifest: Path) -> Iterator[None]:
    """Keep a second run off the same manifest; the lock ends with its process, and says whose."""
    lock = manifest.with_name(f".{manifest.stem}.fetch.lock")
    handle = guard_disk(lock, lambda: take_lock(lock))
    if handle is None:
        raise _taken(manifest, lock)
    try:
        guard_disk(lock, lambda: sign_holder(lock))
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _taken(manifest: Path, lock: Path) -> ConflictError:
    return ConflictError(Problem(
        code="P09", subject=f"manifest '{manifest.name}'", where=str(manifest),
        what=f"another run fetches it ({name_holder(lock)})", fix="wait for it",
    ))  # fmt: skip


def _local_fault(item: Wanted) -> StError | None:
    """Return what is wrong with a file that has no URL: missing, or another one."""
    if item.url is not None:
        return None
    if not item.place.exists():
        where = f"; its accession is {item.accession}" if item.accession else ""
        what = f"it is missing and no URL of it is confirmed{where}"
        fix = "get it by hand and place it there; see the column `confirmed`"
        return BadInputError(file_problem("R10", item.subject, item.shown, what, fix))
    if item.sha256 is None or not item.place.is_file():
        return None
    found = guard_disk(item.place, lambda: sha256_file(item.place))
    if found == item.sha256:
        return None
    what = f"SHA-256 is {found}, the sheet has {item.sha256}"
    fix = "get the file again from its source"
    return IntegrityError(file_problem("R07", item.subject, item.shown, what, fix))


def _keep_record(
    plan: Plan, record: Path, known: dict[str, FetchedFile], got: dict[str, Got]
) -> None:
    """Write down what stands; what earlier runs wrote stays where this one had no luck."""
    entries: list[FetchedFile] = []
    for item in plan.files:
        fresh, old = got.get(item.shown), known.get(item.shown)
        if item.url is not None and (fresh is not None or old is not None):
            entries += [fresh.file] if fresh is not None else [old] if old is not None else []
    if entries:
        write_record(record, FetchedDocument(name=plan.name, files=tuple(entries)))


def _notices(plan: Plan, got: dict[str, Got]) -> tuple[Notice, ...]:
    found: list[Notice] = []
    for item in plan.files:
        if (fresh := got.get(item.shown)) is None:
            continue
        found += [Notice(code="R11", subject=item.shown, what=note) for note in fresh.notes]
        if not fresh.file.verified:
            digest = fresh.file.source_sha256 or fresh.file.sha256
            what = f"unverified: its SHA-256 is {digest}; write it into the sheet once you trust it"
            found.append(Notice(code="R09", subject=item.shown, what=what))
    return tuple(found)


def describe(report: FetchReport) -> Sequence[str]:
    """Say in words what a run did."""
    parts = [f"{report.count(how)} {how}" for how in ("downloaded", "cached", "kept")]
    lines = [f"{len(report.files)} files: {', '.join(parts)}"]
    if report.files:
        lines.append(f"recorded in {report.record}")
    if report.n_local:
        lines.append(f"{report.n_local} files without a URL stand at their places")
    return lines
