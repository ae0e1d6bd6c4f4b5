"""A finished folder in an object store, in an order that makes its mark mean "whole" there too.

A store knows no rename, no lock and no fsync, so nothing is built there: it is built on a disk and
sent object by object. Each is read back; ``corpus.json`` (or ``grids.json``) is made last, and only
if no other one stands there.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stbuild.publish.push.faults import conflict, differs, usage
from stbuild.publish.push.finished import FinishedFile, FinishedFolder, list_finished
from stbuild.publish.push.object_store import ObjectStore
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.report import How, PushReport, SentFile


def send_folder(
    root: Path,
    target: str,
    *,
    dry_run: bool = False,
    confirm: bool = False,
    options: PushOptions | None = None,
    say: Callable[[str], None] = lambda _line: None,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> PushReport:
    """Send a corpus, a release or a folder of grids to an object store.

    What is there with the same bytes is not sent again; to know that, it is read. Killed at any
    moment, the mark is missing there and a rerun goes on.

    Parameters
    ----------
    root
        The finished folder; every file is compared with its documents first.
    target
        ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``.
    dry_run
        Say what would be sent; nothing is written.
    confirm
        Of no use here, and refused.
    options
        Patience, and another endpoint for S3.
    say
        Told of failed attempts.
    started
        Called with each stage and its number of files; returns what to call after each file.

    Raises
    ------
    BadUsageError
        No such target, or options of other targets.
    BadInputError, IntegrityError
        The folder is unfinished or damaged.
    ConflictError
        Something else stands below the URL.
    IntegrityError
        What was read back is not what was sent.
    RemoteError
        The store refuses, or fails at every attempt.
    """
    told = options or PushOptions()
    _refuse_others(told, confirm=confirm)
    store = ObjectStore(target, told, say)
    folder = list_finished(root)
    held = store.list()
    _require_ours(folder, store, held)
    done = started("look" if dry_run else "send", len(folder.files) + 1)

    def bring(file: FinishedFile) -> SentFile:
        how = _bring(store, file, held, dry_run=dry_run)
        done()
        return SentFile(path=file.path, bytes=file.bytes, sha256=file.sha256, how=how)

    with ThreadPoolExecutor(told.jobs) as pool:
        files = list(pool.map(bring, folder.files))
    files.append(_mark(store, folder, held, dry_run=dry_run))
    done()
    return PushReport(
        target=target,
        host=store.host,
        files=tuple(files),
        dry_run=dry_run,
        is_public=all(file.how in ("there", "sent") for file in files),
        compared=True,
        url=store.url,
    )


def _refuse_others(options: PushOptions, *, confirm: bool) -> None:
    given = {"--confirm": confirm, "--replace": options.replace, "--private": options.private}
    given["--deposition"] = options.deposition is not None
    if wrong := [name for name, is_given in given.items() if is_given]:
        what = f"{', '.join(wrong)} is for other targets"
        raise usage("P50", "object stores", what, "leave it out")


def _require_ours(folder: FinishedFolder, store: ObjectStore, held: dict[str, int]) -> None:
    """Refuse a place that holds anything else: nothing there is ever written over or deleted."""
    wanted = {file.path for file in (*folder.files, folder.mark)}
    fix = "choose another prefix, or remove what is there"
    if foreign := sorted(set(held) - wanted):
        shown = ", ".join(repr(path) for path in foreign[:5])
        what = f"{len(foreign)} objects that the folder does not hold: {shown}"
        raise conflict(store.host, store.url, what, fix)
    mark = folder.mark
    if mark.path in held and store.digest(mark.path) != mark.sha256:
        raise conflict(store.host, f"{store.url}/{mark.path}", "another one is finished here", fix)


def _bring(store: ObjectStore, file: FinishedFile, held: dict[str, int], *, dry_run: bool) -> How:
    if held.get(file.path) == file.bytes and store.digest(file.path) == file.sha256:
        return "there"
    if dry_run:
        return "to send"
    store.put(file)
    _read_back(store, file)
    return "sent"


def _read_back(store: ObjectStore, file: FinishedFile) -> None:
    if store.digest(file.path) != file.sha256:
        what = "what was read back differs: the file changed meanwhile, or was damaged on its way"
        raise differs(store.host, f"{store.url}/{file.path}", what)


def _mark(
    store: ObjectStore, folder: FinishedFolder, held: dict[str, int], *, dry_run: bool
) -> SentFile:
    """Make the mark, once everything that it names is there and nothing else."""
    mark = folder.mark
    how: How = "there" if mark.path in held else "to send" if dry_run else "sent"
    if how == "sent":
        sizes = {file.path: file.bytes for file in folder.files}
        # The mark itself may have come from a push of the same folder at the same time.
        found = {path: size for path, size in store.list().items() if path != mark.path}
        if found != sizes:
            what = "somebody else writes there: sizes or names are not those that were sent"
            raise conflict(store.host, store.url, what, "run one push at a time, then again")
        store.create(mark)
        _read_back(store, mark)
    return SentFile(path=mark.path, bytes=mark.bytes, sha256=mark.sha256, how=how)
