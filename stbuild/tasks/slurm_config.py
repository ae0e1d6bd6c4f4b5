"""What a user says of the jobs of a SLURM cluster: the table ``[slurm]`` of a ``--config`` file."""

from typing import Annotated

from pydantic import ConfigDict, Field

from stbuild.corpus.documents import Document

_Line = Annotated[str, Field(pattern=r"^[^\n\r]{1,1000}$")]


class SlurmConfig(Document):
    """Jobs that run workers; nothing here changes a byte."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    jobs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Jobs to keep queued or running: one that ends is replaced."""
    memory: str = Field(pattern=r"^\d+(\.\d+)? ?[kMGT]i?B$")
    """Memory of a job, such as ``8GiB``; a worker beyond its share is ended."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Workers of a job, of one core each."""
    walltime: Annotated[str, Field(pattern=r"^[0-9:-]{4,20}$")] = "01:00:00"
    """Time limit of a job."""
    queue: _Line | None = None
    """Partition (``sbatch -p``)."""
    account: _Line | None = None
    """Account (``sbatch -A``)."""
    directives: tuple[_Line, ...] = ()
    """Further ``#SBATCH`` lines, such as ``--constraint=avx2``."""
    prologue: tuple[_Line, ...] = ()
    """Shell lines before the worker starts, such as ``module load python``."""
    python: _Line | None = None
    """Python of the workers, else the one that runs now; it must be of the same versions."""
    interface: _Line | None = None
    """Network interface between the nodes, such as ``ib0``."""
    host: _Line | None = None
    """Address on which the scheduler listens, instead of an interface's."""
    encrypt: bool = True
    """TLS with certificates made for this run: who reaches a bare scheduler can run code."""
    shared: _Line | None = None
    """Folder that all nodes see, for the certificates; else the current one."""
    local: _Line | None = None
    """Folder for the workers' own files on each node, such as ``/tmp``."""
    logs: _Line | None = None
    """Folder for the output of the jobs."""
    join: Annotated[int, Field(ge=1)] = 60
    """Seconds within which a worker must reach the scheduler, else its job ends."""
