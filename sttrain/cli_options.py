"""Options of the command line: those that every command has, and those made of a field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import rich_click as click

from sttrain.config import FitOptions, RunConfig

Command = TypeVar("Command", bound=Callable[..., Any])

_READING: Final = {
    "order": str,
    "group": int,
    "on_bad": str,
    "max_skipped": float,
    "cache": click.Path(path_type=Path),
    "cache_gb": float,
}
"""How the corpus is read, in the order of the help."""


def shared_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks."),
    ):
        command = option(command)
    return command


def fit_option(name: str, kind: Any) -> Callable[[Command], Command]:
    """Make the flag of a field of the run's configuration or options."""
    field = {**RunConfig.model_fields, **FitOptions.model_fields}[name]
    text = f"{field.description} \\[default: {'none' if field.default is None else field.default}]"
    flag = f"--{name.replace('_', '-')}"
    if isinstance(field.default, tuple):
        return click.option(flag, name, multiple=True, default=None, help=f"{text} Repeatable.")
    if kind is bool:
        return click.option(flag, name, is_flag=True, default=None, help=text)
    return click.option(flag, name, type=kind, default=None, help=text)


def reading_options(command: Command) -> Command:
    """Add the flags that say how a corpus is read."""
    for name, kind in reversed(_READING.items()):
        command = fit_option(name, kind)(command)
    return command
