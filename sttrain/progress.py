"""A progress bar on stderr for people; silence for files and machines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


@contextmanager
def show_progress(title: str, *, quiet: bool) -> Iterator[Report | None]:
    """Yield a function that moves a bar on stderr, or none where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=None)

        def report(done: int, total: int, what: str) -> None:
            text = escape(f"{title}: {what}")
            progress.update(task, completed=done, total=total, description=text)

        yield report
