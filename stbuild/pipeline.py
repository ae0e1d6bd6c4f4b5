"""Running independent tasks: in a plain loop, in local processes, or on a Dask cluster.

Tasks are pure functions that publish by rename, since Dask may run one more than once. Every task
is tried; the errors of all of them are reported together. Only this module touches Dask.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from stbuild.corpus.errors import PlatformError, Problem, RemoteError, StError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one task: its result, or its error."""

    result: Result | None
    error: StError | None


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
    """Run one task and keep its error, so that the others still run."""
    try:
        return Outcome(function(task), None)
    except StError as error:
        return Outcome(None, error)


def run_loop(
    function: Callable[[Any], Any], tasks: Sequence[Any], done: Callable[[], None]
) -> list[Outcome[Any]]:
    """Run the tasks one after another in this process."""
    outcomes = []
    for task in tasks:
        outcomes.append(attempt(function, task))
        done()
    return outcomes


@contextmanager
def open_runner(jobs: int, scheduler: str | None) -> Iterator[Runner]:
    """Give a runner for the time of a build, and end whatever it started.

    Parameters
    ----------
    jobs
        1: a plain loop; more: that many local worker processes, on loopback only.
    scheduler
        Address of a running Dask scheduler, such as ``tcp://127.0.0.1:8786``; takes precedence.

    Raises
    ------
    RemoteError
        The scheduler does not answer.
    """
    if scheduler is None and jobs == 1:
        yield run_loop
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise PlatformError(
            Problem(
                code="E009",
                subject="Dask",
                what=f"several workers need it, but {error}",
                fix="pip install 'stcorpus[build]', or use -j 1",
            )
        ) from error
    if scheduler is not None:
        with _connect(Client, scheduler) as client:
            yield partial(_run_dask, client)
        return
    with (
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # With None its HTTP server would listen on every address of the machine, port 8787.
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield partial(_run_dask, client)


def _connect(client_type: Any, address: str) -> Any:  # noqa: ANN401 - distributed is untyped
    try:
        return client_type(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise RemoteError(
            Problem(
                code="P02",
                subject=f"scheduler '{address}'",
                what=f"no answer: {str(error)[:160]}",
                fix="start it with `dask scheduler --host 127.0.0.1`, or use -j N",
            )
        ) from error


def _run_dask(
    client: Any,  # noqa: ANN401 - distributed is untyped
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    done: Callable[[], None],
) -> list[Outcome[Any]]:
    from distributed import KilledWorker, as_completed

    futures = [client.submit(attempt, function, task, pure=False, retries=2) for task in tasks]
    position = {future.key: i for i, future in enumerate(futures)}
    outcomes: list[Outcome[Any] | None] = [None] * len(tasks)
    for future in as_completed(futures):
        i = position[future.key]
        try:
            outcomes[i] = future.result()
        except KilledWorker:
            outcomes[i] = Outcome(None, _killed(tasks[i]))
        done()
    return [outcome for outcome in outcomes if outcome is not None]


def _killed(task: object) -> StError:
    return RemoteError(
        Problem(
            code="P04",
            subject=f"task {getattr(task, 'name', task)!s:.80}",
            what="its worker died four times while it ran (killed, or out of memory)",
            fix="run the same command again with -j 1 to see why; finished work is kept",
        )
    )
