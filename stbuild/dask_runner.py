"""Tasks on Dask: local processes, a running scheduler, or jobs of SLURM. Only this touches Dask.

Dask runs a task at least once and forgets everything when its scheduler ends; tasks are pure and
publish by rename, so a run that was broken off is only started again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

from distributed import Client, KilledWorker, LocalCluster, as_completed

from stbuild.corpus.errors import BadUsageError, Problem, RemoteError, StError
from stbuild.pipeline import Outcome, Patience, Runner, Workers
from stbuild.slurm import open_slurm, refused
from stbuild.tools import running_code
from stbuild.workers import attempt_there

IN_FLIGHT: Final = 4096
"""Tasks that a scheduler holds at a time: each weighs some kilobytes there."""
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
    return LocalCluster(
        n_workers=workers.jobs,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        # With None its HTTP server would listen on every address of the machine, port 8787.
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )


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
    call = partial(attempt_there, function, running_code())
    client = watch.client
    completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
    outcomes: dict[int, Outcome[Any]] = {}
    flying: dict[str, int] = {}
    sent = 0
    while len(outcomes) < len(tasks):
        # Refilled in large batches: each costs the scheduler a round of its own.
        if sent < len(tasks) and len(flying) <= IN_FLIGHT // 2:
            some = tasks[sent : sent + IN_FLIGHT - len(flying)]
            futures = client.map(call, some, pure=False, retries=2)
            flying |= {future.key: sent + i for i, future in enumerate(futures)}
            completed.update(futures)
            sent += len(some)
        ready = completed.next_batch(block=False)
        for future, result in ready:
            i = flying.pop(future.key)
            outcomes[i] = _outcome(future, result, tasks[i])
            done()
        if not ready:
            watch.look()
            time.sleep(0.02)
    return [outcomes[i] for i in range(len(tasks))]


def _outcome(future: Any, result: Any, task: object) -> Outcome[Any]:  # noqa: ANN401
    if future.status == "finished":
        return result  # type: ignore[no-any-return]
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
        self.client, self._patience, self._say = client, patience, say
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
        self._next = now + self._patience.look
        if self._workers():
            self._alone_since = None
            return
        if self._refusals:
            raise refused(self._refusals[-1])
        if self._alone_since is None:
            self._alone_since = now
            self._say(f"no workers yet: waiting for one, {self._patience.worker:g} s at most")
        if now - self._alone_since >= self._patience.worker:
            raise _alone(self._patience.worker)

    def _workers(self) -> int:
        client, most = self.client, self._patience.scheduler
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
            subject=f"task {getattr(task, 'name', task)!s:.80}",
            what="its worker died four times while it ran (killed, or out of memory)",
            fix="run the same command again with -j 1 to see why; finished work is kept",
        )
    )
