"""Where the numbers of a run go besides its ``log.jsonl``: TensorBoard, wandb, trackio.

Each is a sink that is handed the same numbers. None of them is trusted with the run: what fails is
dropped and said, and training goes on. What they are told is the run's document and its numbers:
no path, no host, no user, no environment variable. What wandb would gather by itself is off.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.errors import PlatformError, printable
from sttrain.errors import BadUsageError, Problem

LoggerName = Literal["tensorboard", "wandb", "trackio"]
LOGGERS: Final[tuple[LoggerName, ...]] = get_args(LoggerName)
DEFAULT_LOGGERS: Final[tuple[LoggerName, ...]] = ("tensorboard",)
PROJECT: Final = "sttrain"
"""Project of a run with wandb and trackio where none is given."""
TENSORBOARD: Final = "tensorboard"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a logger is told of a run."""

    folder: Path
    """Run folder; files are put there, its own name is the run's name, nothing more is told."""
    fingerprint: str = "0" * 64
    """Digest of configuration and corpus."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: the run's document."""
    done: int = 0
    """Steps that are done; what was logged of later ones is done again."""
    project: str = PROJECT
    offline: bool = False
    """Keep everything on this machine, to be sent later."""

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return printable(self.folder.resolve().name)

    @property
    def run_id(self) -> str:
        """Id of the run with a service: the same when it goes on, another in another folder."""
        return sha256_bytes(f"{self.fingerprint}/{self.name}".encode())[:16]


class Sink(Protocol):
    """Takes the numbers of a run."""

    def write(self, event: str, steps: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an event after so many steps."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class TensorBoardSink:
    """Event files in ``<run>/tensorboard``."""

    def __init__(self, facts: RunFacts) -> None:
        # Imported here: it takes a second, and a run that is refused should not wait for it.
        from torch.utils.tensorboard import SummaryWriter

        _quieten_threads()
        folder = str(facts.folder / TENSORBOARD)
        self._board: Any = SummaryWriter(folder, purge_step=facts.done + 1)

    def write(self, event: str, steps: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each number; those of steps keep their plain names."""
        for name, value in values.items():
            self._board.add_scalar(_scalar_name(event, name), value, steps)

    def close(self) -> None:
        """Flush and close."""
        self._board.close()


class WandbSink:
    """A run of Weights & Biases; unless `offline`, ``WANDB_MODE`` of the environment decides."""

    def __init__(self, facts: RunFacts) -> None:
        import wandb

        # No code, git remote, command line, package list, host or usage of the machine.
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        mode = {"mode": "offline"} if facts.offline else {}
        self._run: Any = wandb.init(
            project=facts.project,
            name=facts.name,
            id=facts.run_id,
            resume="allow",
            config=dict(facts.config),
            dir=str(facts.folder),
            settings=settings,
            **mode,
        )

    def write(self, event: str, steps: int, values: Mapping[str, float]) -> None:
        """Log the numbers under their step."""
        self._run.log({_scalar_name(event, n): v for n, v in values.items()}, step=steps)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TrackioSink:
    """A run of trackio: on this machine, or where ``TRACKIO_SPACE_ID`` of the environment says."""

    def __init__(self, facts: RunFacts) -> None:
        elsewhere = [n for n in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if os.environ.get(n)]
        if facts.offline and elsewhere:
            what = f"{elsewhere[0]} is set, and the run is to stay offline"
            fix = f"unset {elsewhere[0]}, or train without --offline"
            raise BadUsageError(
                Problem(code="B111", subject="--logger trackio", what=what, fix=fix)
            )
        import trackio

        # The id makes the name the run's own: trackio goes on with a run by its name.
        with _talk_to_stderr():
            self._run: Any = trackio.init(
                project=facts.project,
                name=f"{facts.name}-{facts.run_id[:6]}",
                config=dict(facts.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
            )

    def write(self, event: str, steps: int, values: Mapping[str, float]) -> None:
        """Log the numbers under their step."""
        self._run.log({_scalar_name(event, n): v for n, v in values.items()}, step=steps)

    def close(self) -> None:
        """Finish the run."""
        with _talk_to_stderr():
            self._run.finish()


_SINKS: Final[Mapping[str, Callable[[RunFacts], Sink]]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
}


@dataclass(kw_only=True)
class Sinks:
    """Several sinks, each dropped at its first failure."""

    say: Say
    open: dict[str, Sink] = field(default_factory=dict)

    def write(self, event: str, steps: int, values: Mapping[str, Any]) -> None:
        """Hand the numbers among `values` to every sink."""
        numbers = {n: float(v) for n, v in values.items() if isinstance(v, float)}
        for name in tuple(self.open):
            with self._guarded(name):
                self.open[name].write(event, steps, numbers)

    def close(self) -> None:
        """Close every sink."""
        for name in tuple(self.open):
            with self._guarded(name):
                self.open.pop(name).close()

    def start(self, name: str, facts: RunFacts) -> None:
        """Open a sink; one that cannot be opened is said and left out."""
        with self._guarded(name):
            self.open[name] = _SINKS[name](facts)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except _failures(name) as error:
            self.open.pop(name, None)
            reason = printable(f"{type(error).__name__}: {error}"[:200])
            self.say(f"{name} failed and is left out ({reason}); log.jsonl goes on")


def open_sinks(names: tuple[str, ...], facts: RunFacts, say: Say) -> Sinks:
    """Open the sinks of a run.

    Parameters
    ----------
    names
        Of `LOGGERS`.
    facts
        What they are told.
    say
        Hears of TensorBoard missing, and of sinks that fail.

    Raises
    ------
    PlatformError
        The package of wandb or trackio, which somebody asked for, is not installed.
    """
    sinks = Sinks(say=say)
    for name in dict.fromkeys(names):
        try:
            sinks.start(name, facts)
        except ImportError as error:
            if name not in DEFAULT_LOGGERS:
                raise _missing(name) from error
            say(f"{name} is not installed; numbers go to log.jsonl alone")
    return sinks


def _missing(name: str) -> PlatformError:
    return PlatformError(
        Problem(
            code="E009",
            subject=f"--logger {name}",
            what=f"the package {name} is not installed",
            fix=f"pip install 'stcorpus[{name}]', or leave --logger {name} out",
        )
    )


def _scalar_name(event: str, name: str) -> str:
    return name if event == "step" else f"{event}/{name}"


def _failures(name: str) -> tuple[type[Exception], ...]:
    """Return what a sink may raise: the machine's and the network's errors, and its own.

    An attribute or argument that is not there is a version of the package with other habits.
    """
    own = getattr(sys.modules.get(name), "Error", None)
    mine = (own,) if isinstance(own, type) and issubclass(own, Exception) else ()
    return (OSError, RuntimeError, ValueError, TypeError, AttributeError, *mine)


def _quieten_threads() -> None:
    """Let Python print no traceback of TensorBoard's threads: the next call to it raises the same.

    A full disk would otherwise be told twice, the second time as if it were a bug.
    """
    before = threading.excepthook

    def hook(told: threading.ExceptHookArgs) -> None:
        if not type(told.thread).__module__.startswith(f"{TENSORBOARD}."):
            before(told)

    threading.excepthook = hook


def _talk_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """Keep what a package prints out of our own output."""
    return contextlib.redirect_stdout(sys.stderr)
