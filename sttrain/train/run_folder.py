"""A run folder: its document, its lock, and its journal.

``run.json`` says what is trained on what, and stands before the first step; a second command in the
same folder goes on with that run or is refused. ``log.jsonl`` and ``tensorboard/`` tell what
happened, and so may wandb and trackio (:mod:`.loggers`); a resumed run cuts away what they
say of steps that are done again.
"""

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from filelock import FileLock, Timeout

from stbuild.corpus.documents import Count, Document, Sha256, Slug, read_document
from stbuild.corpus.durable import (
    PARTIAL,
    append_whole,
    guard_disk,
    remove_leftovers,
    write_durable,
)
from stbuild.corpus.holder import name_holder, sign_holder
from stbuild.corpus.outputs import refuse_foreign
from stbuild.corpus.storage import read_file
from sttrain.errors import ConflictError, Problem, ResourceError
from sttrain.train.config import RunConfig, differences
from sttrain.train.environment import git_state
from sttrain.train.loggers import DEFAULT_LOGGERS, PROJECT, RunFacts, Say, Sinks, open_sinks

RUN_JSON: Final = "run.json"
LOG: Final = "log.jsonl"
_LOCK: Final = ".lock"
_HOLDER: Final = ".holder.json"
_MADE: Final = ("checkpoints", LOG, "loss.png", "tensorboard", "trace")
_PACKAGES: Final = ("stcorpus", "torch", "numpy", "safetensors", "numcodecs")


class RunDocument(Document):
    """``run.json``: what a run is."""

    format: Literal["sttrain/run"] = "sttrain/run"
    version: Literal[1] = 1
    config: RunConfig
    """Resolved: recipe, flags and defaults."""
    corpus: Slug
    corpus_id: Sha256
    n_patches: Count
    """Patches of the split, or views of its whole slices under objective `slice`."""
    steps: Count
    """Steps of the whole run."""
    fingerprint: Sha256
    """Digest of configuration and corpus id."""
    environment: dict[str, str]
    """Versions and processor at the start; a rerun under others is not bit-identical."""


@contextmanager
def open_run(path: Path, document: RunDocument, *, rebatch: bool = False) -> Iterator[RunDocument]:
    """Hold a run folder for one process, making it if there is none.

    Parameters
    ----------
    path
        The folder.
    document
        What is to be run.
    rebatch
        Go on with a run whose global batch was another one; its document then tells the new one.

    Yields
    ------
    RunDocument
        What stands in the folder: `document`, or the earlier one of the same run.

    Raises
    ------
    ConflictError
        Another process holds the folder; it holds another run (every difference is named), or
        something that is no run.
    ResourceError
        The disk refuses.
    """
    refuse_foreign(path, "run", mark=_is_run, leftover=_is_ours, code="T03", thing="run")
    guard_disk(path, lambda: path.mkdir(parents=True, exist_ok=True))
    lock = FileLock(path / _LOCK)
    guard_disk(path, lambda: _acquire(path, lock))
    try:
        guard_disk(path / _HOLDER, lambda: sign_holder(path / _HOLDER))
        found = _enter(path, document, rebatch=rebatch)
        guard_disk(path, lambda: remove_leftovers(path))
        yield found
    finally:
        lock.release()


def _acquire(path: Path, lock: FileLock) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout as error:  # an OSError too, but not the disk's
        fix = "wait for the other `sttrain fit` to end, or give another folder with -o"
        what = f"another process is training in it ({name_holder(path / _HOLDER)})"
        raise _conflict(path, what, fix) from error


def _is_run(path: Path) -> bool:
    return path.name == RUN_JSON and path.is_file()


def _is_ours(path: Path) -> bool:
    # A run whose folder was taken away meanwhile leaves what it wrote last, without its mark.
    return path.name in {_LOCK, _HOLDER, *_MADE} or PARTIAL in path.name


def _enter(path: Path, document: RunDocument, *, rebatch: bool) -> RunDocument:
    file = path / RUN_JSON
    if not file.is_file():
        write_durable(file, document.to_bytes())
        return document
    before = read_document(RunDocument, read_file(file), str(file))
    if before.fingerprint == document.fingerprint:
        return before
    found = differences(
        before.config.model_dump(mode="json") | {"corpus_id": before.corpus_id},
        document.config.model_dump(mode="json") | {"corpus_id": document.corpus_id},
    )
    same = before.config.model_copy(update={"batch": document.config.batch})
    if before.corpus_id == document.corpus_id and same == document.config:
        if rebatch:
            write_durable(file, document.to_bytes())
            return before
        what = f"it holds a run with another global batch: {'; '.join(found)}"
        fix = "repeat the batch; or give --rebatch, and the rest is another run than it would be"
        raise _conflict(path, what, fix)
    what = f"it holds another run: {'; '.join(found)}"
    raise _conflict(path, what, "repeat that run's settings, or give another folder with -o")


def require_run(path: Path) -> None:
    """Refuse to go on with a run whose folder was taken away: what is written would be no run.

    Raises
    ------
    ResourceError
        ``run.json`` is gone.
    """
    if not (path / RUN_JSON).is_file():
        what = f"{RUN_JSON} is gone: something else works in the folder"
        fix = "leave the folder to one run, and run the same command again"
        raise ResourceError(
            Problem(code="P05", subject=f"run '{path.name}'", where=str(path), what=what, fix=fix)
        )


def describe_environment() -> dict[str, str]:
    """Return versions, processor features and the commit of the code; no host name, no path."""
    found = {name: version(name) for name in _PACKAGES}
    found |= {"python": platform.python_version(), "machine": platform.machine()}
    found |= {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | git_state()


class Journal:
    """The log of a run, as JSON lines and for other loggers.

    Parameters
    ----------
    run
        Run folder.
    done
        Steps that are done; what the log says of later ones is dropped.
    document
        What the run is, for loggers that show it.
    loggers
        Of :data:`sttrain.train.loggers.LOGGERS`, besides the JSON lines.
    project
        Project of the run with wandb and trackio.
    offline
        Send nothing anywhere.
    say
        Hears of loggers that are missing or fail.
    """

    def __init__(
        self,
        run: Path,
        done: int,
        *,
        document: RunDocument | None = None,
        loggers: Sequence[str] = DEFAULT_LOGGERS,
        project: str = PROJECT,
        offline: bool = False,
        say: Say = lambda _: None,
    ) -> None:
        path = run / LOG
        lines = _lines_until(path, done) if path.is_file() else []
        write_durable(path, "".join(lines).encode())
        self._run = run
        self._loggers, self._say = tuple(loggers), say
        told = {} if document is None else {"fingerprint": document.fingerprint}
        config = {} if document is None else document.model_dump(mode="json")
        self._facts = RunFacts(
            folder=run, config=config, done=done, project=project, offline=offline, **told
        )
        self._sinks = Sinks(say=say)

    def __enter__(self) -> Self:
        """Open the log and the loggers.

        Raises
        ------
        PlatformError
            A logger that was asked for is not installed.
        """
        self._sinks = open_sinks(self._loggers, self._facts, self._say)
        path = self._run / LOG
        # Without a buffer: what a full disk refused must not come back when the file is closed.
        self._file = guard_disk(path, lambda: path.open("ab", buffering=0))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sinks.close()

    def write(self, event: str, steps: int, values: Mapping[str, Any]) -> None:
        """Append one line, and hand its numbers to the other loggers.

        A number that is not finite is null in the line: JSON has no word for it.

        Raises
        ------
        ResourceError
            The disk refuses.
        """
        plain = {name: _finite(value) for name, value in values.items()}
        line = json.dumps({"event": event, "steps": steps, **plain}, allow_nan=False) + "\n"
        guard_disk(self._run / LOG, lambda: append_whole(self._file, line.encode()))
        numbers = {n: value for n, value in values.items() if isinstance(value, int | float)}
        self._sinks.write(event, steps, numbers)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a log that name an event and a step; none where there is no log."""
    if not path.is_file():
        return
    for raw in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # a torn last line
            continue
        if isinstance(line, dict) and {"event", "steps"} <= line.keys():
            yield line


def _lines_until(path: Path, done: int) -> list[str]:
    """Return the whole lines of a log about steps that are done; a torn last line is dropped."""
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            steps = json.loads(line)["steps"]
        except (ValueError, KeyError, TypeError):
            continue
        if steps <= done and line.endswith("\n"):
            kept.append(line)
    return kept


def _conflict(path: Path, what: str, fix: str) -> ConflictError:
    return ConflictError(
        Problem(code="T03", subject=f"run '{path.name}'", where=str(path), what=what, fix=fix)
    )
