"""What a person sees of a run: progress and warnings on stderr, results on stdout."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from stbuild.slices import Notice


class Screen:
    """Progress and warnings on stderr, results on stdout."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        # A pipe or file has no width; tables are laid out for one that fits them.
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
        self.began = monotonic()

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int], Callable[[], None]]]:
        """Give a function that starts a bar: (stage, total) -> what to call after each task."""
        shown = sys.stderr.isatty() and not self.quiet
        columns = (
            TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )  # fmt: skip
        with Progress(*columns, console=self.err, disable=not shown) as bars:

            def start(stage: str, total: int) -> Callable[[], None]:
                task = bars.add_task(stage, total=total)
                return lambda: bars.advance(task)

            yield start

    def notices(self, notices: "Iterable[Notice]") -> None:
        """Print warnings, the first few of each kind and a count of the rest."""
        if self.quiet:
            return
        times: dict[str, int] = {}
        for notice in notices:
            times[notice.code] = times.get(notice.code, 0) + 1
            if times[notice.code] <= 5:
                self.err.print(str(notice), style="yellow", markup=False)
        for code, n in times.items():
            if n > 5:
                self.err.print(f"warning[{code}] and {n - 5} more of this kind", style="yellow")

    def say(self, line: str) -> None:
        """Print one line for people on stderr."""
        if not self.quiet:
            self.err.print(line, markup=False)

    def seconds(self) -> float:
        """Return the time since the command began."""
        return monotonic() - self.began

    def result(self, value: dict[str, Any], lines: Iterable[str | Table]) -> None:
        """Print the result: as JSON, or as lines and tables."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
            return
        for line in lines:
            if isinstance(line, Table):
                self.out.print(line)
            else:
                sys.stdout.write(f"{line}\n")


def format_size(n_bytes: float) -> str:
    """Return a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return ""
