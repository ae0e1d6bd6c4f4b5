"""The ``sttrain`` command: parse, call one public function, print.

A command body is a thin client of the library; errors become exit codes in
:mod:`stbuild.corpus.console`. Heavy modules are imported inside the command that needs them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import rich_click as click

from stbuild.corpus.console import run_program
from stbuild.corpus.documents import read_config
from sttrain import __version__
from sttrain.config import FitOptions, RunConfig, load_config, parse_settings
from sttrain.loggers import DEFAULT_LOGGERS
from sttrain.probe_config import ProbeConfig
from sttrain.progress import show_progress, show_training
from sttrain.report import ALL_METRICS, REFERENCES, SHOWN

if TYPE_CHECKING:
    from sttrain.results import ResultRow

Command = TypeVar("Command", bound=Callable[..., Any])

click.rich_click.TEXT_MARKUP = "rich"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Pretrain on a corpus of spatial-transcriptomics patches and judge what was learnt."""


def _shared_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks."),
    ):
        command = option(command)
    return command


# --- fit ------------------------------------------------------------------------------------


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


@cli.command()
@click.argument("corpus", type=click.Path(path_type=Path))
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
@_fit_option("epochs", int)
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
@_fit_option("fsdp", bool)
@_fit_option("compile", bool)
@_fit_option("timeout", float)
@_fit_option("val_split", str)
@_fit_option("val_every", int)
@_fit_option("val_patches", int)
@_fit_option("trace", bool)
@_fit_option("rebatch", bool)
@_fit_option("project", str)
@_fit_option("offline", bool)
@_fit_option("logger", str)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and what it would cost.")
@_shared_options
def fit(
    corpus: Path, config: Path | None, output: Path, settings: tuple[str, ...], **flags: Any
) -> None:
    """Pretrain a masked autoencoder on CORPUS; the same command again resumes where it stopped.

    Example: sttrain fit train/ -c manifests/runs/small.toml -o run/ --set optimizer.lr=3e-4
    """
    from stbuild.corpus.reader import open_corpus
    from sttrain.allocator import keep_freed_memory
    from sttrain.curves import plot_if_possible
    from sttrain.plan import describe_plan, plan_run
    from sttrain.train import fit as run_fit

    given = {name: value for name, value in flags.items() if value is not None}
    overrides = {name: given[name] for name in RunConfig.model_fields if name in given}
    options = {name: given[name] for name in FitOptions.model_fields if name in given}
    named = options.pop("logger", ()) or DEFAULT_LOGGERS
    options["logger"] = tuple(name for name in named if name != "none")
    recipe = load_config(config, overrides | parse_settings(settings))
    chosen = read_config(FitOptions, options, "command line")
    if flags["dry_run"]:
        plan = plan_run(open_corpus(corpus), recipe, chosen)
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


# --- embed, probe, report -------------------------------------------------------------------


def _probe_help(name: str) -> str:
    field = ProbeConfig.model_fields[name]
    default = field.default
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return f"{field.description} \\[default: {'none' if default is None else shown}]"


_EMBED_FLAGS = ("untrained", "per_member", "batch", "layer", "device")


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File of the vectors: .h5ad (obsm X_sttrain) or .parquet.",
)
@click.option(
    "--untrained",
    is_flag=True,
    help="Use the run's weights before its first step: the control of every table.",
)
@click.option(
    "--per-member",
    is_flag=True,
    help="One row per spot or cell of the source, where several share a site (layout bin).",
)
@click.option(
    "--layer",
    type=click.IntRange(0),
    help="Features after this many layers. \\[default: the encoder's output]",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Patches that are encoded together.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the encoder runs.",
)
@_shared_options
def embed(checkpoint: Path, corpus: Path, output: Path, **flags: Any) -> None:
    """Write one vector per measured spot of CORPUS, from the encoder of CHECKPOINT.

    CHECKPOINT is a run folder, one of its checkpoints, a folder of released weights or
    hf:OWNER/NAME; CORPUS an evaluation corpus over the genes of the training corpus. Overlapping
    windows and gene draws are averaged.

    Example: sttrain embed run/ eval/ -o ours.h5ad
    """
    from sttrain.embed import embed_checkpoint

    with show_progress("embed", quiet=flags["quiet"]) as progress:
        outcome = embed_checkpoint(
            checkpoint,
            corpus,
            output,
            **{name: flags[name] for name in _EMBED_FLAGS},
            progress=progress,
            say=lambda line: click.echo(line, err=True),
        )
    vectors = outcome.embeddings
    facts = {"output": str(output), "width": vectors.width, "digest": vectors.digest()}
    if flags["as_json"]:
        covered = [asdict(found) for found in outcome.coverage]
        click.echo(json.dumps(facts | {"coverage": covered, "provenance": vectors.provenance}))
        return
    for found in outcome.coverage:
        click.echo(str(found))
    n_spots = sum(found.n_spots for found in outcome.coverage)
    click.echo(f"{output}: {n_spots:,} vectors of {vectors.width} values")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the release; the same release there is left alone, another is refused.",
)
@click.option("--checkpoint", help="Checkpoint, such as step-00000400. \\[default: the newest]")
@click.option("--ema", "kind", flag_value="ema", help="The running means of the weights.")
@click.option("--initial", "kind", flag_value="initial", help="The weights before the first step.")
@click.option("--licence", help="Licence of the weights, an SPDX expression such as CC-BY-4.0.")
@click.option("--title", help="Heading of the model card. \\[default: made of the corpus's name]")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="The training corpus; the card then tells species, tissues, platforms and licences.",
)
@_shared_options
def release(run: Path, output: Path, **flags: Any) -> None:
    """Write the weights of RUN as a folder that stands alone: safetensors, config, genes, card.

    The layout is that of the Hugging Face Hub: hf upload OWNER/NAME FOLDER.

    Example: sttrain release run/ -o released/ --corpus train/ --licence CC-BY-4.0
    """
    from sttrain.release import write_release

    outcome = write_release(
        run,
        output,
        kind=flags["kind"] or "trained",
        **{name: flags[name] for name in ("checkpoint", "licence", "title", "corpus")},
        say=lambda line: click.echo(line, err=True),
    )
    found = {"output": str(output), "written": outcome.written}
    found |= {"release_id": outcome.document.release_id}
    click.echo(json.dumps(found, sort_keys=True) if flags["as_json"] else str(outcome))


@cli.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of results; an existing one of this corpus is continued.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Baseline: raw, pcaD, nbmeanK-pcaD, coords, majority. Repeatable.",
)
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="NAME=FILE",
    help="Vectors to judge, .h5ad (obsm X_sttrain, or FILE.h5ad:KEY) or .parquet. Repeatable.",
)
@click.option("--split", "splits", multiple=True, help=_probe_help("splits"))
@click.option(
    "--head", "heads", multiple=True, type=click.Choice(["knn", "mlp"]), help=_probe_help("heads")
)
@click.option("--seeds", type=int, help=_probe_help("seeds"))
@click.option("--k", type=int, help=_probe_help("k"))
@click.option("--mlp-epochs", type=int, help=_probe_help("mlp_epochs"))
@click.option("--mlp-patience", type=int, help=_probe_help("mlp_patience"))
@click.option(
    "--replace",
    is_flag=True,
    help="Drop stored results of an embedding whose vectors have changed.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fits at the same time; scores do not depend on it.",
)
@_shared_options
def probe(
    corpus: Path,
    output: Path,
    methods: tuple[str, ...],
    embeddings: tuple[str, ...],
    **flags: Any,
) -> None:
    """Judge baselines and embeddings on CORPUS, an evaluation corpus, under its frozen splits.

    Example: sttrain probe eval/ --method raw --method nbmean6-pca50 --embedding ours=ours.h5ad
    --split block20@1 --head knn --head mlp --mlp-epochs 50 -j 2 -o results/
    """
    from sttrain.probes import parse_embedding, probe_corpus

    given = {n: flags[n] for n in ProbeConfig.model_fields if flags[n] not in (None, ())}
    with show_progress("probe", quiet=flags["quiet"]) as progress:
        outcome = probe_corpus(
            corpus,
            output,
            methods=methods,
            embeddings=[parse_embedding(text) for text in embeddings],
            config=read_config(ProbeConfig, given, "command line"),
            workers=flags["jobs"],
            replace=flags["replace"],
            progress=progress,
        )
    made = {"computed": outcome.n_computed, "reused": outcome.n_reused, "output": str(output)}
    _print_report(outcome.rows, flags, made)


@cli.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for report.md, table.csv, differences.csv and domain maps (PNG).",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(ALL_METRICS),
    help="Metric of the table; ari_slices is the mean ARI per slice. Repeatable. "
    f"\\[default: {', '.join(SHOWN)}]",
)
@click.option(
    "--compare",
    multiple=True,
    help="Method whose paired differences are shown. Repeatable. \\[default: every embedding]",
)
@click.option(
    "--against",
    multiple=True,
    help=f"Reference of the differences. Repeatable. \\[default: {', '.join(REFERENCES)}]",
)
@click.option("--slice", "st_slice", help="Slice of the maps. \\[default: the most labelled one]")
@click.option("--seed", type=int, help="Seed of the maps. \\[default: the first]")
@click.option("--no-maps", is_flag=True, help="No pictures; matplotlib is not needed.")
@_shared_options
def report(results: Path, output: Path | None, **flags: Any) -> None:
    """Show what `sttrain probe` stored in RESULTS: table, paired differences, domain maps.

    Example: sttrain report results/ -o report/ --against raw --against untrained
    """
    from sttrain.report import build_report, write_report
    from sttrain.results import open_store

    rows = open_store(results).rows()
    wanted = {n: flags[n] for n in ("metrics", "compare", "against") if flags[n]}
    files: list[Path] = []
    if output is not None:
        with show_progress("maps", quiet=flags["quiet"]) as progress:
            files = write_report(
                results,
                output,
                build_report(rows, **wanted),
                st_slice=flags["st_slice"],
                seed=flags["seed"],
                maps=not flags["no_maps"],
                progress=progress,
            )
    _print_report(rows, flags, {"files": [str(path) for path in files]}, **wanted)


def _print_report(
    rows: "Sequence[ResultRow]", flags: dict[str, Any], made: dict[str, Any], **wanted: Any
) -> None:
    """Print a summary of rows, and what was made, for people or for machines."""
    from rich.console import Console

    from sttrain.report import build_report
    from sttrain.tables import terminal_tables

    summary = build_report(rows, **wanted)
    if flags["as_json"]:
        click.echo(json.dumps(summary.as_dict() | made, sort_keys=True))
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        console.width = 200
    for table in terminal_tables(summary):
        console.print(table)
    for remark in summary.remarks:
        console.print(remark, markup=False)
    for name, value in made.items():
        shown = "\n  ".join(["", *value]) if isinstance(value, list) else f" {value}"
        console.print(f"{name}:{shown}", markup=False)


def main() -> NoReturn:
    """Run the command line; the entry point of ``sttrain``."""
    run_program(
        lambda arguments: cli.main(args=arguments, prog_name="sttrain", standalone_mode=False),
        usage=click.ClickException,
        aborted=click.Abort,
    )


if __name__ == "__main__":
    main()
