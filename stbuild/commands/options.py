"""Options of the ``stbuild`` command: made from the fields of the configuration models.

A default stands in one place only, the model's field; so does the text of ``--help``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin

import rich_click as click
from pydantic import BaseModel, ValidationError

from stbuild.corpus.documents import (
    CONFIG_FIX,
    document_problems,
    read_config,
    validate_written,
)
from stbuild.corpus.errors import BadUsageError, Problem
from stbuild.corpus.toml import parse_toml

if TYPE_CHECKING:
    from stbuild.tasks.pipeline import Runner
    from stbuild.tasks.slurm_config import SlurmConfig

_COMMAND_LINE: Final = "command line"
_SLURM: Final = "slurm"
"""Table of a configuration file that says where tasks run."""

Command = TypeVar("Command", bound=Callable[..., Any])

click.rich_click.TEXT_MARKUP = "rich"


def _option(model: type[BaseModel], name: str) -> Callable[[Command], Command]:
    """Make the option of one configuration field; its default stays the model's."""
    field = model.model_fields[name]
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} \\[default: {'none' if field.default is None else field.default}]"
    if get_origin(field.annotation) is tuple:
        text = f"{field.description} Repeatable. \\[default: none]"
        return click.option(flag, name, multiple=True, default=None, help=text)
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    arguments = [a for a in get_args(field.annotation) if a is not type(None)]
    kind: Any = arguments[0] if arguments and isinstance(arguments[0], type) else field.annotation
    if get_origin(field.annotation) is Literal:
        kind = click.Choice([str(value) for value in get_args(field.annotation)])
    return click.option(flag, name, type=kind, default=None, help=text)


def model_options(model: type[BaseModel], *skip: str) -> Callable[[Command], Command]:
    """Make the options of all fields of a configuration model, in their order."""
    chosen = [name for name in model.model_fields if name not in skip]
    return lambda command: reduce(
        lambda c, name: _option(model, name)(c), reversed(chosen), command
    )


def shared_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings."),
        click.option("-v", "--verbose", is_flag=True, help="Say more about each slice."),
    ):
        command = option(command)
    return command


def worker_options(command: Command) -> Command:
    """Add the options that say where tasks run; they never change a byte."""
    for option in (
        click.option(
            "--task-timeout",
            type=click.FloatRange(min=0),
            default=7200,
            show_default=True,
            help="Seconds that a worker may take for one slice or shard before it is tried "
            "elsewhere, and then given up by name; 0 waits for ever. Not with -j 1.",
        ),
        click.option(
            "--worker-wait",
            type=click.FloatRange(min=1),
            default=600,
            show_default=True,
            help="Seconds that a cluster may have no worker before the run gives up.",
        ),
        click.option(
            "--cluster",
            type=click.Choice(["slurm"]),
            help="Start workers as jobs there, as the table \\[slurm] of --config says.",
        ),
        click.option("--scheduler", help="Address of a running Dask scheduler, tcp://HOST:PORT."),
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Local worker processes; 1 is a plain loop.",
        ),
    ):
        command = option(command)
    return command


def cluster_config_option(command: Command) -> Command:
    """Add ``--config`` to a command that has no configuration but its workers'."""
    text = "TOML file with a table \\[slurm], for --cluster."
    return click.option("--config", type=click.Path(), help=text)(command)


@contextmanager
def open_workers(flags: dict[str, Any], say: Callable[[str], None]) -> "Iterator[Runner]":
    """Give the runner that the options of :func:`worker_options` name.

    Raises
    ------
    BadUsageError
        Options that exclude each other, or no table ``[slurm]``.
    """
    from stbuild.tasks.pipeline import Patience, Workers, open_runner

    if flags["cluster"] and flags["scheduler"]:
        raise _usage("--cluster and --scheduler", "both say where tasks run", "give one of them")
    workers = Workers(
        jobs=flags["jobs"],
        scheduler=flags["scheduler"],
        slurm=_slurm_config(flags["config"]) if flags["cluster"] else None,
        patience=Patience(worker=flags["worker_wait"], task=flags["task_timeout"] or None),
    )
    with open_runner(workers=workers, say=say) as runner:
        yield runner


def _slurm_config(path: str | None) -> "SlurmConfig":
    from stbuild.tasks.slurm_config import SlurmConfig

    table = {} if path is None else _load_toml(path).get(_SLURM)
    if not isinstance(table, dict) or path is None:
        what = "it needs a table [slurm] in the file of --config"
        fix = 'write one, with memory = "8GiB" and jobs = 4 at least'
        raise _usage("--cluster slurm", what, fix)
    config: SlurmConfig = read_config(SlurmConfig, table, f"{path}: [slurm]")
    return config


def _usage(subject: str, what: str, fix: str) -> BadUsageError:
    return BadUsageError(Problem(code="B111", subject=subject, what=what, fix=fix))


def _read_toml(path: str | None) -> dict[str, Any]:
    """Return what a file says of bytes: without the table that says where tasks run."""
    if path is None:
        return {}
    return {name: value for name, value in _load_toml(path).items() if name != _SLURM}


def _load_toml(path: str) -> dict[str, Any]:
    try:
        return parse_toml(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(
            code="B111", subject="config", where=path, what=f"unreadable: {error}",
            fix="give a TOML file with keys such as window = 16",
        )  # fmt: skip
        raise BadUsageError(problem) from error


def resolve_config(
    model: type[BaseModel],
    preset: dict[str, Any],
    manifest: dict[str, Any],
    file: str | None,
    flags: dict[str, Any],
    *,
    place: str = "manifest",
) -> Any:
    """Merge defaults, preset, manifest, config file and flags; later ones win.

    Parameters
    ----------
    model
        What the result is.
    preset, manifest, file, flags
        What each of them says.
    place
        Where `manifest` stands, for messages.

    Raises
    ------
    BadUsageError
        Every key that is unknown or has a bad value, each where it was given last.
    """
    value = resolve_given(preset, manifest, file, flags)
    given = (preset, manifest, _read_toml(file), _given(flags))
    if _last(given, "cover") > _last(given, "n_per_slice"):
        value["n_per_slice"] = None  # training patches, said before or by default
    try:
        return validate_written(model, value)
    except ValidationError as error:
        layers = ((manifest, place), (_read_toml(file), str(file)), (_given(flags), _COMMAND_LINE))
        said = {key: where for layer, where in layers for key in layer}
        problems = document_problems(error, model, value, file or _COMMAND_LINE, "B111", CONFIG_FIX)
        keys = [str(item["loc"][0]) if item["loc"] else "" for item in error.errors()]
        raise BadUsageError(
            *(
                replace(problem, where=said.get(key) or problem.where)
                for key, problem in zip(keys, problems, strict=True)
            )
        ) from None


def resolve_given(
    preset: dict[str, Any], manifest: dict[str, Any], file: str | None, flags: dict[str, Any]
) -> dict[str, Any]:
    """Merge what was asked for, without defaults; later ones win."""
    return preset | manifest | _read_toml(file) | _given(flags)


def _last(given: Sequence[dict[str, Any]], name: str) -> int:
    """Return which of several says something of a key last; -1 if none does."""
    return max((i for i, said in enumerate(given) if said.get(name) is not None), default=-1)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in flags.items() if item is not None and item != ()}


def pick_fields(model: type[BaseModel], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that are fields of a configuration model."""
    return {name: flags[name] for name in model.model_fields if name in flags}


def source_options(command: Command) -> Command:
    """Add the options that say how foreign files are found and read."""
    for option in (
        click.option(
            "--probe-memory",
            type=click.FloatRange(min=0.1),
            help="GiB that the reader of one file may use \\[default: 3/4 of the machine's].",
        ),
        click.option(
            "--probe-timeout",
            type=click.IntRange(1),
            default=60,
            show_default=True,
            help="Seconds of CPU time that the reader of a small file may take; 1 more per MiB; "
            "ten times as long by the clock.",
        ),
        click.option("--gene-table", type=click.Path(),
                     help="Pairs of Ensembl ids and symbols, for --gene-ids; see `stbuild genes`."),
        click.option("--split-by", help="Column of obs, or of a table, that tells the sections of "
                     "one file apart: each becomes a slice."),
        click.option("--labels-file", type=click.Path(),
                     help="Table of labels, by barcode or coordinates (for one input)."),
        click.option("--positions", type=click.Path(),
                     help="Table of coordinates for a table of counts (for one input)."),
    ):  # fmt: skip
        command = option(command)
    return command
