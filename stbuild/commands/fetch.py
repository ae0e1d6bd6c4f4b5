"""The command ``stbuild fetch``: a thin client of :mod:`stbuild.fetch.run`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from stbuild.commands.options import shared_options
from stbuild.corpus.cache import default_cache
from stbuild.fetch.transport import Options
from stbuild.screen import Screen

_DEFAULTS = Options()


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("-j", "--jobs", type=click.IntRange(1, 32), default=4, show_default=True,
              help="Downloads at a time.")  # fmt: skip
@click.option("--allow-unverified", is_flag=True,
              help="Take files whose sha256 is empty; what is found is recorded.")  # fmt: skip
@click.option("--replace", is_flag=True, help="Replace files that stand there with other content.")
@click.option("--cache", type=click.Path(path_type=Path), default=None,
              help="Folder of the cache by content \\[default: below ~/.cache].")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Neither use nor fill a cache.")
@click.option("--allow-host", "hosts", multiple=True,
              help="Other host to which redirects are followed; may be repeated.")  # fmt: skip
@click.option("--attempts", type=click.IntRange(1, 100), default=_DEFAULTS.attempts,
              show_default=True, help="Times that a file is tried.")  # fmt: skip
@click.option(
    "--stall-timeout", "stall", type=click.FloatRange(min=0.1), default=_DEFAULTS.stall,
    show_default=True, help="Seconds without progress after which an attempt ends.",
)  # fmt: skip
@click.option(
    "--most-gb", type=click.FloatRange(min=0), default=_DEFAULTS.most_bytes / 10**9,
    show_default=True, help="Largest file, packed or unpacked, in 10^9 bytes.",
)  # fmt: skip
@shared_options
def fetch(manifest: Path, jobs: int, **flags: Any) -> None:
    """Download the sources that a MANIFEST lists, to where its sample sheet says.

    Files are checked by size and SHA-256; a run that was cut off goes on where it stopped.

    Example: stbuild fetch manifests/corpora/dlpfc-12.toml --allow-unverified -j 4
    """
    from stbuild.fetch.run import describe, fetch_manifest

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    options = Options(
        attempts=flags["attempts"], stall=flags["stall"],
        most_bytes=int(flags["most_gb"] * 1e9), hosts=frozenset(flags["hosts"]),
    )  # fmt: skip
    cache = None if flags["no_cache"] else flags["cache"] or default_cache("sources")
    with _bars(screen) as progress:
        report = fetch_manifest(
            manifest, jobs=jobs, allow_unverified=flags["allow_unverified"],
            replace=flags["replace"], cache=cache, options=options, say=screen.say,
            progress=progress,
        )  # fmt: skip
    screen.notices(report.notices)
    rows = [{**got.file.model_dump(), "how": got.how} for got in report.files]
    value = {"files": rows, "local": report.n_local, "record": str(report.record)}
    shown = [f"{got.how}: {got.file.path}" for got in report.files] if flags["verbose"] else []
    screen.result(value, [*shown, *describe(report)])


@contextmanager
def _bars(screen: Screen) -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Give a function that starts the bar of one download."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    hidden = screen.quiet or not screen.err.is_terminal
    with Progress(*columns, console=screen.err, disable=hidden) as bars:
        tasks: dict[str, TaskID] = {}

        def begin(name: str, total: int | None) -> Callable[[int], None]:
            if name not in tasks:
                tasks[name] = bars.add_task(name.rsplit("/", 1)[-1][:40])
            bars.reset(tasks[name], total=total)
            return lambda n_bytes: bars.advance(tasks[name], n_bytes)

        yield begin
