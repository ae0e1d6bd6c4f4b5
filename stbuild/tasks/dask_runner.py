"""Tasks on Dask: local processes, a running scheduler, or jobs of SLURM. Only this touches Dask.

Dask runs a task at least once and forgets everything when its scheduler ends; tasks are pure and
publish by rename, so a run that was broken off is only started again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Final

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed

from stbuild.corpus.errors import BadUsageError, Problem, RemoteError, StError
from stbuild.tasks.pipeline import Outcome, Patience, Runner, Workers, name_of
from stbuild.tasks.slurm import open_slurm, refused
from stbuild.tasks.workers import SlowTaskError, attempt_there
from stbuild.tools import running_code

IN_FLIGHT: Final = 4096
"""Tasks that a scheduler holds at a time: each weighs some kilobytes there."""
_ENVIRONMENT: Final = "distributed.nanny.pre-spawn-environ"
_AGAIN: Final = "run the same command again: finished work is kept"


@contextmanager
def open_dask(workers: Workers, say: Callable[[str], None]) -> Iterator[Runner]:
    """Give a runner on Dask, and end whatever was started for it.

    Parameters
    ----------
    workers
        Where tasks run.
    say
        Told that there are no workers yet.

    Raises
    ------
    BadUsageError
        No such address.
    RemoteError
        The scheduler does not answer.
    PlatformError
        A package is missing.
    """
    refusals: list[str] = []
    with ExitStack() as stack:
        if workers.scheduler is not None:
            client = stack.enter_context(_connect(workers.scheduler, workers.patience))
        else:
            cluster = stack.enter_context(_start(workers, refusals))
            client = stack.enter_context(Client(cluster))
        yield partial(_run, _Watch(client, workers.patience, say, refusals))


def _start(workers: Workers, refusals: list[str]) -> Any:  # noqa: ANN401 - distributed is untyped
    if workers.slurm is not None:
        return open_slurm(workers.slurm, refusals)
    with dask.config.set({_ENVIRONMENT: _without_trimming(dask.config.get(_ENVIRONMENT))}):
        return LocalCluster(
            n_workers=workers.jobs,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # With None its HTTP server would listen on every address of the machine, port 8787.
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        )


def _without_trimming(variables: Mapping[str, object]) -> dict[str, object]:
    """Return the environment of workers without Dask's setting of the C library's allocator.

    With it every array is asked of the system anew and given back: a million page faults in the
    time of 3,000 patches, a seventh of the CPU time.
    """
    return {key: value for key, value in variables.items() if not key.startswith("MALLOC_")}


def _connect(address: str, patience: Patience) -> Any:  # noqa: ANN401 - distributed is untyped
    subject = f"scheduler '{address}'"
    try:
        return Client(address, timeout=f"{min(20.0, patience.scheduler):g}s")
    except (ValueError, TypeError) as error:
        problem = Problem(
            code="P02", subject=subject, what=f"no address of a scheduler: {str(error)[:160]}",
            fix="give tcp://HOST:PORT, or tls://HOST:PORT with Dask's own TLS settings",
        )  # fmt: skip
        raise BadUsageError(problem) from error
    except OSError as error:
        problem = Problem(
            code="P02", subject=subject, what=f"no answer: {str(error)[:160]}",
            fix="start it with `dask scheduler --host 127.0.0.1`, or use -j N",
        )  # fmt: skip
        raise RemoteError(problem) from error


def _run(
    watch: "_Watch",
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    done: Callable[[], None],
) -> list[Outcome[Any]]:
    flight = _Flight(watch, partial(attempt_there, function, running_code(), watch.patience.task))
    outcomes: dict[int, Outcome[Any]] = {}
    while len(outcomes) < len(tasks):
        flight.refill(tasks)
        landed = flight.land(tasks)
        outcomes |= landed
        for _ in landed:
            done()
        if not landed:
            watch.look()
            time.sleep(0.02)
    return [outcomes[i] for i in range(len(tasks))]


class _Flight:
    """Tasks that a scheduler holds: sent in large batches, and those that hang once more."""

    def __init__(self, watch: "_Watch", call: Callable[[Any], Outcome[Any]]) -> None:
        self._watch, self._call = watch, call
        loop = watch.client.loop
        self._completed = as_completed(loop=loop, with_results=True, raise_errors=False)
        self._flying: dict[str, int] = {}
        self._again: set[int] = set()
        self._sent = 0

    def refill(self, tasks: Sequence[Any]) -> None:
        """Send some more, if few are left; each round costs the scheduler something."""
        if self._sent < len(tasks) and len(self._flying) <= IN_FLIGHT // 2:
            stop = self._sent + IN_FLIGHT - len(self._flying)
            self._send(range(self._sent, min(stop, len(tasks))), tasks)
            self._sent = min(stop, len(tasks))

    def land(self, tasks: Sequence[Any]) -> dict[int, Outcome[Any]]:
        """Return what has come back by now, by the number of the task."""
        landed: dict[int, Outcome[Any]] = {}
        hung = []
        ready = list(self._completed.next_batch(block=False))
        for future, result in ready:
            i = self._flying.pop(future.key)
            landed[i] = _outcome(future, result, tasks[i])
            if isinstance(landed[i].error, SlowTaskError):
                hung.append(future)
        if not hung:
            return landed
        where = self._watch.workers_of(hung)
        for future, _ in ready:
            # Else Dask would run tasks again whose results go with the worker.
            future.release()
        self._watch.replace(where)
        slow = {i for i, outcome in landed.items() if isinstance(outcome.error, SlowTaskError)}
        once = sorted(slow - self._again)  # the machine may be at fault
        self._again |= slow
        self._send(once, tasks)
        return {i: outcome for i, outcome in landed.items() if i not in once}

    def _send(self, numbers: Sequence[int], tasks: Sequence[Any]) -> None:
        some = [tasks[i] for i in numbers]
        futures = self._watch.client.map(self._call, some, pure=False, retries=2)
        self._flying |= {future.key: i for future, i in zip(futures, numbers, strict=True)}
        self._completed.update(futures)


def _outcome(future: Any, result: Any, task: object) -> Outcome[Any]:  # noqa: ANN401
    # Its worker may be gone since; then the future is not finished any more.
    if isinstance(result, Outcome):
        return result
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, KilledWorker):
        return Outcome(None, _killed(task))
    if isinstance(error, CancelledError):
        raise _lost("the connection broke, or the scheduler was started anew")
    raise error


class _Watch:
    """Looks whether scheduler and workers are there, while nothing comes."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - distributed is untyped
        patience: Patience,
        say: Callable[[str], None],
        refusals: list[str],
    ) -> None:
        self.client, self.patience, self._say = client, patience, say
        self._refusals = refusals
        self._next = time.monotonic() + min(1.0, patience.look)
        self._alone_since: float | None = None

    def look(self) -> None:
        """Raise where it makes no sense to wait any longer.

        Raises
        ------
        RemoteError
            The scheduler is gone or silent, or there was no worker for too long.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.patience.look
        if self._workers():
            self._alone_since = None
            return
        if self._refusals:
            raise refused(self._refusals[-1])
        if self._alone_since is None:
            self._alone_since = now
            self._say(f"no workers yet: waiting for one, {self.patience.worker:g} s at most")
        if now - self._alone_since >= self.patience.worker:
            raise _alone(self.patience.worker)

    def workers_of(self, futures: Sequence[Any]) -> list[str]:
        """Return the addresses of the workers that hold some results."""
        with suppress(OSError, TimeoutError, RuntimeError):
            held = self.client.who_has(futures)
            return sorted({address for found in held.values() for address in found})
        return []

    def replace(self, addresses: Sequence[str]) -> None:
        """Start the workers of hung tasks anew, where they have a nanny: their threads never end.

        Whatever such a thread holds would stop the next task too.
        """
        most = self.patience.scheduler
        for address in addresses:
            self._say(f"a task hangs on {address}: that worker is started anew")
            with suppress(OSError, TimeoutError, RuntimeError, ValueError):
                self.client.restart_workers([address], timeout=most, raise_for_error=False)

    def _workers(self) -> int:
        client, most = self.client, self.patience.scheduler
        if client.status != "running":
            raise _lost(f"the connection is {client.status}")
        try:
            return len(client.sync(client.scheduler.ncores, callback_timeout=most))
        except (OSError, TimeoutError, RuntimeError) as error:
            raise _lost(f"no answer within {most:g} s ({type(error).__name__})") from error


def _lost(what: str) -> RemoteError:
    return RemoteError(Problem(code="P03", subject="scheduler", what=f"lost: {what}", fix=_AGAIN))


def _alone(seconds: float) -> RemoteError:
    what = f"there was none for {seconds:g} s"
    fix = f"start workers (`dask worker ADDRESS`), or wait longer with --worker-wait; {_AGAIN}"
    return RemoteError(Problem(code="P03", subject="workers", what=what, fix=fix))


def _killed(task: object) -> StError:
    return RemoteError(
        Problem(
            code="P04",
            subject=name_of(task),
            what="its worker died four times while it ran (killed, or out of memory)",
            fix="run the same command again with -j 1 to see why; finished work is kept",
        )
    )
