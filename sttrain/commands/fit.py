"""The command ``sttrain fit``; its flags are made of the fields of recipe and options."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

import rich_click as click

from stbuild.corpus.documents import read_config
from sttrain.commands.options import Command, shared_options
from sttrain.errors import BadUsageError
from sttrain.model.pretext import Loss, Objective
from sttrain.progress import show_training
from sttrain.settings import parse_settings, twice_set
from sttrain.train.config import FitOptions, RunConfig, load_config
from sttrain.train.loggers import DEFAULT_LOGGERS

_READING: Final = {
    "order": str,
    "group": int,
    "on_bad": str,
    "max_skipped": float,
    "cache": click.Path(path_type=Path),
    "cache_gb": float,
}
"""How the corpus is read, in the order of the help."""


def _fit_option(name: str, kind: Any) -> Callable[[Command], Command]:
    """Make the flag of a field of the run's configuration or options."""
    field = {**RunConfig.model_fields, **FitOptions.model_fields}[name]
    text = f"{field.description} \\[default: {'none' if field.default is None else field.default}]"
    flag = f"--{name.replace('_', '-')}"
    if isinstance(field.default, tuple):
        return click.option(flag, name, multiple=True, default=None, help=f"{text} Repeatable.")
    if kind is bool:
        return click.option(flag, name, is_flag=True, default=None, help=text)
    return click.option(flag, name, type=kind, default=None, help=text)


def _reading_options(command: Command) -> Command:
    """Add the flags that say how a corpus is read."""
    for name, kind in reversed(_READING.items()):
        command = _fit_option(name, kind)(command)
    return command


@click.command()
@click.argument("corpus")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Recipe, such as manifests/runs/small.toml. \\[default: the defaults]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("run"),
    show_default=True,
    help="Run folder; an existing run of these settings goes on.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the recipe, such as optimizer.lr=3e-4. Repeatable.",
)
@_fit_option("objective", click.Choice(get_args(Objective)))
@_fit_option("loss", click.Choice(get_args(Loss)))
@_fit_option("epochs", int)
@_fit_option("steps", int)
@_fit_option("batch", int)
@_fit_option("seed", int)
@_fit_option("split", str)
@_fit_option("workers", int)
@_fit_option("threads", int)
@_fit_option("device", str)
@_fit_option("checkpoint_every", int)
@_fit_option("keep", int)
@_fit_option("log_every", int)
@_fit_option("part", int)
@_fit_option("timeout", float)
@_fit_option("val_split", str)
@_fit_option("val_every", int)
@_fit_option("val_patches", int)
@_fit_option("trace", bool)
@_reading_options
@_fit_option("fsdp", bool)
@_fit_option("compile", bool)
@_fit_option("rebatch", bool)
@_fit_option("project", str)
@_fit_option("offline", bool)
@_fit_option("logger", str)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and what it would cost.")
@shared_options
def fit(
    corpus: str, config: Path | None, output: Path, settings: tuple[str, ...], **flags: Any
) -> None:
    """Pretrain a masked autoencoder on CORPUS; the same command again resumes where it stopped.

    The unit of training is one flag, all else alike: --objective spot, multispot, slice or patch.

    CORPUS is a folder, or the URL of one (https:, s3:, gs:, hf:), best read with --order block.

    Example: sttrain fit train/ -c manifests/runs/small.toml -o run/ --set optimizer.lr=3e-4
    """
    from sttrain.stream.remote import open_location
    from sttrain.train.allocator import keep_freed_memory
    from sttrain.train.curves import plot_if_possible
    from sttrain.train.plan import describe_plan, plan_run
    from sttrain.train.run import fit as run_fit

    given = {name: value for name, value in flags.items() if value is not None}
    overrides = {name: given[name] for name in RunConfig.model_fields if name in given}
    options = {name: given[name] for name in FitOptions.model_fields if name in given}
    named = options.pop("logger", ()) or DEFAULT_LOGGERS
    options["logger"] = tuple(name for name in named if name != "none")
    said = parse_settings(settings)
    if twice := [key for key in overrides if said.get(key, overrides[key]) != overrides[key]]:
        raise BadUsageError(*(twice_set(key, overrides[key], said[key]) for key in twice))
    recipe = load_config(config, overrides | said)
    chosen = read_config(FitOptions, options, "command line")
    if flags["dry_run"]:
        opened = open_location(corpus, cache=chosen.cache, cache_gb=chosen.cache_gb)
        plan = plan_run(opened, recipe, chosen)
        click.echo(
            json.dumps(asdict(plan), sort_keys=True) if flags["as_json"] else describe_plan(plan)
        )
        return

    def say(text: str) -> None:
        if not flags["quiet"]:
            click.echo(text, err=True)

    keep_freed_memory()
    shown = {"quiet": flags["quiet"], "device": chosen.device.replace("auto", "cpu")}
    with show_training("fit", **shown) as progress:
        summary = run_fit(corpus, output, recipe, chosen, progress=progress, say=say)
    if summary.rank == 0:
        plot_if_possible(output, say)
    if summary.rank == 0:
        text = json.dumps(asdict(summary), sort_keys=True) if flags["as_json"] else str(summary)
        click.echo(text)
