"""Progress on stderr: a bar for people, a line now and then for logs.

What is shown decides nothing, and the clock is monotonic.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from stbuild.corpus.errors import printable

Report = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

EVERY: Final = 30.0
"""Seconds between lines where stderr is no terminal."""


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


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """How a run stands after a step."""

    done: int
    """Steps of the whole run that are done."""
    total: int
    loss: float
    """Mean of late, or of the step."""
    patches_per_s: float
    data_wait: float
    """Share of the time that training waited for data."""
    epoch: int = 0


TrainingReport = Callable[[TrainingState], None]
Clock = Callable[[], float]


@contextmanager
def show_training(
    title: str,
    *,
    quiet: bool = False,
    device: str = "cpu",
    every: float = EVERY,
    stream: TextIO | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[TrainingReport | None]:
    """Yield a function that shows how training stands, or none where nothing is to be shown.

    On a terminal: a bar with loss, patches per second, share of waiting for data, memory and the
    time that is left. Elsewhere: a line with the same every so many seconds, the first after the
    first step and the last after the last.

    Parameters
    ----------
    title
        Name of the run.
    quiet
        Show nothing.
    device
        Torch device whose memory is shown beside the process's.
    every
        Seconds between lines.
    stream
        Where to; stderr without it.
    clock
        Seconds that never go back.
    """
    out = stream or sys.stderr
    if quiet:
        yield None
    elif out.isatty():
        with _training_bar(printable(title), device, out, clock) as report:
            yield report
    else:
        yield _Lines(title=printable(title), device=device, every=every, out=out, clock=clock)


@dataclass(kw_only=True)
class _Speed:
    """How long is left, from the steps of this call alone: a resumed run did others before."""

    clock: Clock
    first: tuple[float, int] | None = None

    def seconds_left(self, state: TrainingState) -> float | None:
        """Return the seconds to the last step, or none after the first step."""
        now = self.clock()
        if self.first is None:
            self.first = now, state.done
            return None
        began, start = self.first
        if state.done <= start:
            return None
        return (now - began) / (state.done - start) * (state.total - state.done)


@dataclass(kw_only=True)
class _Lines:
    title: str
    device: str
    every: float
    out: TextIO
    clock: Clock
    said: float | None = None
    speed: _Speed = field(init=False)

    def __post_init__(self) -> None:
        self.speed = _Speed(clock=self.clock)

    def __call__(self, state: TrainingState) -> None:
        """Say a line if one is due."""
        left = self.speed.seconds_left(state)
        now = self.clock()
        if self.said is not None and now - self.said < self.every and state.done != state.total:
            return
        self.said = now
        share = state.done / max(1, state.total)
        self.out.write(
            f"{self.title}: step {state.done:,} of {state.total:,} ({share:.0%}), "
            f"{_describe(state, self.device)}, {_left(left)}\n"
        )
        self.out.flush()


@contextmanager
def _training_bar(title: str, device: str, out: TextIO, clock: Clock) -> Iterator[TrainingReport]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    speed = _Speed(clock=clock)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )  # fmt: skip
    console = Console(file=out)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, numbers="")

        def report(state: TrainingState) -> None:
            numbers = f"{_describe(state, device)}, {_left(speed.seconds_left(state))}"
            progress.update(task, completed=state.done, total=state.total, numbers=numbers)

        yield report


def _describe(state: TrainingState, device: str) -> str:
    memory = " + ".join(f"{_gigabytes(size)} {name}" for name, size in used_memory(device).items())
    return (
        f"epoch {state.epoch + 1}, loss {state.loss:.4f}, {state.patches_per_s:,.0f} patches/s, "
        f"waiting for data {state.data_wait:.0%}, {memory}"
    )


def used_memory(device: str = "cpu") -> dict[str, int]:
    """Return the bytes that this process holds, ``RSS``, and the most that it held of a GPU.

    Where the system does not say what is held now (it does on Linux), RSS is the most there was.
    """
    found = {"RSS": _resident()}
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            found[f"{device} peak"] = torch.cuda.max_memory_allocated(device)
    return found


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _left(seconds: float | None) -> str:
    """Return a duration such as ``2:03:04 left``."""
    if seconds is None:
        return "time left unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left"
