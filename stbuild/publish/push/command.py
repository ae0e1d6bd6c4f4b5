"""The command ``stbuild push``, and what ``stbuild publish --push`` shares with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from stbuild.options import shared_options
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
        ``hf:ORG/NAME``, ``zenodo`` or ``zenodo-sandbox``.
    screen
        Where it is shown.
    flags
        Values of the options.
    """
    from stbuild.publish.push.run import push_release

    fields = ("endpoint", "private", "replace", "deposition", "attempts")
    options = PushOptions(**{name: flags[name] for name in fields if flags.get(name) is not None})
    with screen.progress() as start:
        report = push_release(
            release, target, dry_run=flags["dry_run"], confirm=flags["confirm"], options=options,
            say=screen.say, started=start,
        )  # fmt: skip
    screen.result(report.as_dict(), describe(report))
    return report


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.argument("target")
@push_options
@shared_options
def push(release: Path, target: str, **flags: Any) -> None:
    """Send a RELEASE to TARGET: hf:ORG/NAME, zenodo or zenodo-sandbox.

    The token comes from HF_TOKEN or ZENODO_TOKEN. What has arrived is not sent again. The Hub gets
    one commit for all files; Zenodo a draft, which is published only with --confirm.

    Example: stbuild push release/ hf:our-lab/our-corpus --dry-run
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
