"""The command ``stbuild push``, and what ``stbuild publish --push`` shares with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from stbuild.commands.options import shared_options
from stbuild.publish.push.faults import usage
from stbuild.publish.push.object_store import is_object_url
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.report import PushReport
from stbuild.screen import Screen, format_size

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULTS = PushOptions()


def push_options(command: Command) -> Command:
    """Add the options of a push."""
    for option in (
        click.option("--dry-run", is_flag=True, help="List what would be sent; send nothing."),
        click.option("--confirm", is_flag=True,
                     help="Zenodo: publish the draft. This cannot be undone."),
        click.option("--replace", is_flag=True,
                     help="Hub: delete files there that the release does not hold."),
        click.option("--private", is_flag=True, help="Hub: make a new repository a private one."),
        click.option("--deposition", type=click.IntRange(1), default=None,
                     help="Zenodo: the draft to go on with \\[default: the one found]."),
        click.option("--endpoint", default=None,
                     help="Other server of the same interface, https only."),
        click.option("--attempts", type=click.IntRange(1, 100), default=_DEFAULTS.attempts,
                     show_default=True, help="Times that a request is tried."),
    ):  # fmt: skip
        command = option(command)
    return command


def run_push(release: Path, target: str, screen: Screen, flags: dict[str, Any]) -> PushReport:
    """Push a release as the options of :func:`push_options` say, and show the outcome.

    Parameters
    ----------
    release
        Folder that ``stbuild publish`` wrote.
    target
        ``hf:ORG/NAME``, ``zenodo``, ``zenodo-sandbox``, or the URL of an object store.
    screen
        Where it is shown.
    flags
        Values of the options.
    """
    fields = ("endpoint", "private", "replace", "deposition", "attempts")
    options = PushOptions(**{name: flags[name] for name in fields if flags.get(name) is not None})
    with screen.progress() as start:
        report = _sender(target)(
            release, target, dry_run=flags["dry_run"], confirm=flags["confirm"], options=options,
            say=screen.say, started=start,
        )  # fmt: skip
    screen.result(report.as_dict(), describe(report))
    return report


def _sender(target: str) -> Callable[..., PushReport]:
    if is_object_url(target):
        from stbuild.publish.push.objects import send_folder

        return send_folder
    from stbuild.publish.push.run import push_release

    return push_release


def refuse_url_output(output: str, flag: str = "-o") -> Path:
    """Return an output folder, if it is one of this machine.

    Raises
    ------
    BadUsageError
        It is a URL.
    """
    if "://" not in output:
        return Path(output)
    what = f"{output[:120]!r} is no folder: an object store knows no rename, lock or fsync"
    fix = f"build on a disk ({flag} FOLDER), and send it on when it is whole: --push s3://..."
    raise usage("P50", "output", what, fix)


def object_option(command: Command) -> Command:
    """Add ``--push`` for folders that are no releases: to object stores alone."""
    text = "Send it on when it is whole: s3://BUCKET/PREFIX or gs://...; see `stbuild push`."
    return click.option("--push", "target", help=text)(command)


def push_objects(root: str, target: str | None, screen: Screen) -> PushReport | None:
    """Send a finished folder on, if a target was given, and tell people the outcome.

    Raises
    ------
    BadUsageError
        The target is no object store.
    """
    if target is None:
        return None
    require_objects(target)
    from stbuild.publish.push.objects import send_folder

    with screen.progress() as start:
        report = send_folder(Path(root), target, say=screen.say, started=start)
    for line in describe(report):
        screen.say(line)
    return report


def require_objects(target: str | None) -> None:
    """Refuse, before any work, a target that is no object store.

    Raises
    ------
    BadUsageError
        It is none.
    """
    if target is not None and not is_object_url(target):
        what = f"{target[:120]!r} takes releases alone"
        fix = "give s3://BUCKET/PREFIX or gs://..., or `stbuild publish` it first"
        raise usage("P50", "target", what, fix)


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.argument("target")
@push_options
@shared_options
def push(release: Path, target: str, **flags: Any) -> None:
    """Send a RELEASE to TARGET: hf:ORG/NAME, zenodo, zenodo-sandbox, s3://BUCKET/PREFIX, gs://...

    The token comes from HF_TOKEN or ZENODO_TOKEN. What has arrived is not sent again. The Hub gets
    one commit for all files; Zenodo a draft, which is published only with --confirm. An object
    store takes a corpus or a folder of grids too; every object is read back, and corpus.json (or
    grids.json) comes last, so that its presence means whole there as well.

    Example: stbuild push release/ hf:our-lab/our-corpus --dry-run

    And: stbuild push train/ s3://our-bucket/train
    """
    run_push(release, target, Screen(quiet=flags["quiet"], as_json=flags["as_json"]), flags)


def describe(report: PushReport) -> list[str]:
    """Return the outcome in lines for a terminal."""
    lines = []
    if report.dry_run:
        lines += [
            f"{file.how:9} {file.bytes:>15,}  {file.sha256 or '-':64}  {file.path}"
            for file in report.files
        ]
    for how in ("sent", "to send", "there", "deleted", "to delete"):
        n, size = report.count(how)
        if n:
            lines.append(f"{how}: {n} files, {format_size(size)}")
    place = f"{report.target} at {report.host}"
    state = "holds this release" if report.is_public else "shows strangers nothing of it yet"
    lines.append(f"{place} {state}" if report.compared else f"{place} was not asked")
    if report.url:
        lines.append(f"{report.url} ({report.revision})" if report.revision else report.url)
    return [*lines, *(f"note: {notice}" for notice in report.notices)]
