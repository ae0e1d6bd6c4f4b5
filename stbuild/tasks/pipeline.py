"""Running independent tasks: in a plain loop, in local processes, or on a Dask cluster.

Tasks are pure functions that publish by rename, since Dask may run one more than once. Every task
is tried, and whatever it raises names it; the errors of all of them are reported together. Dask
itself is in `dask_runner`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from stbuild.corpus.console import save_traceback
from stbuild.corpus.errors import PlatformError, Problem, ResourceError, StError

if TYPE_CHECKING:
    from stbuild.tasks.slurm_config import SlurmConfig

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one task: its result, or its error."""

    result: Result | None
    error: StError | None


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a cluster may do nothing, in seconds."""

    worker: float = 600.0
    """Without any worker."""
    scheduler: float = 60.0
    """Without an answer of the scheduler."""
    look: float = 5.0
    """Between two looks at them."""
    task: float | None = 7200.0
    """With one task in a worker; None waits for ever."""


class Runner(Protocol):
    """Maps a function over tasks; the outcomes come back in the order of the tasks."""

    def __call__(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        done: Callable[[], None],
    ) -> list[Outcome[Any]]:
        """Run `function` over `tasks`, calling `done` after each."""
        ...


def attempt(function: Callable[[Task], Result], task: Task) -> Outcome[Result]:
    """Run one task and keep its error, so that the others still run.

    A bug that one input meets is told with its name, and stops no other.
    """
    try:
        return Outcome(function(task), None)
    except StError as error:
        return Outcome(None, error)
    except MemoryError:
        what, fix = "memory ran out", "use fewer workers (-j), then run the same command again"
        return Outcome(None, ResourceError(_about(task, "P33", what, fix)))
    except Exception as error:  # noqa: BLE001 - the edge of a task: whatever it is, it is told
        what = f"internal error: {type(error).__name__}: {str(error)[:200]}"
        fix = f"this is a bug: please report it with the traceback in {save_traceback()}"
        return Outcome(None, StError(_about(task, "E001", what, fix)))


def name_of(task: object) -> str:
    """Return what a task is called in messages: the slice or unit that it works on."""
    return f"task {getattr(task, 'name', task)!s:.80}"


def _about(task: object, code: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=name_of(task), what=what, fix=fix)


def run_loop(
    function: Callable[[Any], Any], tasks: Sequence[Any], done: Callable[[], None]
) -> list[Outcome[Any]]:
    """Run the tasks one after another in this process."""
    outcomes = []
    for task in tasks:
        outcomes.append(attempt(function, task))
        done()
    return outcomes


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where tasks run; nothing here changes a byte."""

    jobs: int = 1
    """1: a plain loop; more: that many local processes, on loopback only."""
    scheduler: str | None = None
    """Address of a running Dask scheduler; goes before `jobs`."""
    slurm: "SlurmConfig | None" = None
    """Jobs of a SLURM cluster; goes before `jobs`."""
    patience: Patience = field(default_factory=Patience)


@contextmanager
def open_runner(
    jobs: int = 1,
    scheduler: str | None = None,
    *,
    workers: Workers | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Iterator[Runner]:
    """Give a runner for the time of a build, and end whatever it started.

    Parameters
    ----------
    jobs, scheduler
        In short, for :class:`Workers`.
    workers
        Where tasks run, in full.
    say
        Told that a cluster has no workers yet.

    Raises
    ------
    BadUsageError
        No such scheduler address.
    RemoteError
        The scheduler does not answer, or SLURM takes no job.
    PlatformError
        A package is missing.
    """
    told = workers or Workers(jobs=jobs, scheduler=scheduler)
    if told.scheduler is None and told.slurm is None and told.jobs == 1:
        yield run_loop
        return
    try:
        from stbuild.tasks.dask_runner import open_dask
    except ImportError as error:
        raise _missing(error) from error
    with open_dask(told, say) as runner:
        yield runner


def _missing(error: ImportError) -> PlatformError:
    return PlatformError(
        Problem(
            code="E009",
            subject="Dask",
            what=f"several workers need it, but {error}",
            fix="pip install 'stcorpus[build]', or use -j 1",
        )
    )
