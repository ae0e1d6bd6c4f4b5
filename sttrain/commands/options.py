"""Options that several commands of ``sttrain`` have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

Command = TypeVar("Command", bound=Callable[..., Any])

vectors_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File of the vectors: .h5ad (obsm X_sttrain) or .parquet.",
)
replace_option = click.option(
    "--replace",
    "replace_others",
    is_flag=True,
    help="Write over vectors of another model, corpus or setting that stand at -o.",
)
per_member_option = click.option(
    "--per-member",
    is_flag=True,
    help="One row per spot or cell of the source, where several share a site (layout bin).",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the model runs.",
)


def shared_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks."),
    ):
        command = option(command)
    return command
