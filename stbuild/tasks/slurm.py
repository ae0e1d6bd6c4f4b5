"""Workers as jobs of a SLURM cluster, through dask-jobqueue. Nothing is submitted here by itself.

The scheduler runs in the client's process and goes with it, and so do the jobs.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stbuild.corpus.errors import PlatformError, Problem, RemoteError
from stbuild.tasks.slurm_config import SlurmConfig


@contextmanager
def open_slurm(config: SlurmConfig, refusals: list[str]) -> Iterator[Any]:
    """Give a cluster that keeps its jobs queued or running, and cancel them in the end.

    Parameters
    ----------
    config
        What the jobs are like.
    refusals
        Gets what SLURM says where it takes no job: dask-jobqueue only logs it, and tries again.

    Raises
    ------
    PlatformError
        dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    except ImportError as error:
        problem = Problem(
            code="E009", subject="SLURM", what=f"--cluster slurm needs dask-jobqueue: {error}",
            fix="pip install 'stcorpus[slurm]'",
        )  # fmt: skip
        raise PlatformError(problem) from error

    class Job(SLURMJob):
        async def _submit_job(self, script_filename: str) -> Any:  # noqa: ANN401
            try:
                return await super()._submit_job(script_filename)  # type: ignore[no-untyped-call]
            except (RuntimeError, OSError) as error:
                refusals.append(str(error))
                raise

    kind = type("Cluster", (SLURMCluster,), {"job_cls": Job})
    cluster = kind(**job_arguments(config), **_scheduler_arguments(config))
    try:
        # Jobs end by their time limit; as many as were asked for are kept.
        cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=config.jobs)
        yield cluster
    finally:
        # It takes for granted that every job was accepted.
        with suppress(AssertionError):
            cluster.close()


def refused(said: str) -> RemoteError:
    """Return the error of a SLURM that takes no job."""
    what = f"it took no job: {' '.join(said.split())[-400:]}"
    fix = "mend the table [slurm], and look whether `sbatch` works here; finished work is kept"
    return RemoteError(Problem(code="P03", subject="SLURM", what=what, fix=fix))


def job_arguments(config: SlurmConfig) -> dict[str, Any]:
    """Return what dask-jobqueue is told of a job.

    Everything is said, so that a stranger's ``jobqueue.yaml`` decides nothing.
    """
    return {
        "cores": config.workers,
        "processes": config.workers,
        "memory": config.memory,
        "walltime": config.walltime,
        "queue": config.queue,
        "account": config.account,
        "job_extra_directives": list(config.directives),
        "job_script_prologue": list(config.prologue),
        "python": config.python,
        "interface": config.interface,
        "death_timeout": config.join,
        "local_directory": config.local,
        "log_directory": config.logs,
        "worker_extra_args": ["--dashboard-address", "127.0.0.1:0"],
    }


def _scheduler_arguments(config: SlurmConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0"}
    if config.host is not None:
        options["host"] = config.host
    return {
        "scheduler_options": options,
        "security": True if config.encrypt else None,
        "protocol": "tls://" if config.encrypt else "tcp://",
        "shared_temp_directory": config.shared or str(Path.cwd()),
        "silence_logs": 50,
    }
