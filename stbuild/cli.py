"""The ``stbuild`` command: parse, call one public function, print.

A command body is a thin client of the library; errors become exit codes in
:mod:`stbuild.corpus.console`. Options that change bytes are made from the fields of the
configuration models, so a default stands in one place only.
"""

import json
import sys
import tomllib
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

import rich_click as click
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.table import Table

from stbuild import __version__
from stbuild.config import PAPER_GRID, PAPER_SHARDS, GridConfig
from stbuild.corpus.console import run_program
from stbuild.corpus.documents import ShardConfig, read_config
from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    IntegrityError,
    Problem,
    merge_errors,
)
from stbuild.screen import Screen, format_size

if TYPE_CHECKING:
    from stbuild.preview import SlicePlan

Command = TypeVar("Command", bound=Callable[..., Any])

_FLAGS = {"whole_slices", "strict_size", "label_splits"}


def _option(model: type[BaseModel], name: str) -> Callable[[Command], Command]:
    """Make the option of one configuration field; its default stays the model's."""
    field = model.model_fields[name]
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} \\[default: {'none' if field.default is None else field.default}]"
    if name in _FLAGS:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    arguments = [a for a in get_args(field.annotation) if a is not type(None)]
    kind: Any = arguments[0] if arguments and isinstance(arguments[0], type) else field.annotation
    if get_origin(field.annotation) is Literal:
        kind = click.Choice([str(value) for value in get_args(field.annotation)])
    return click.option(flag, name, type=kind, default=None, help=text)


def _options(model: type[BaseModel], *skip: str) -> Callable[[Command], Command]:
    """Make the options of all fields of a configuration model, in their order."""
    chosen = [name for name in model.model_fields if name not in skip]
    return lambda command: reduce(
        lambda c, name: _option(model, name)(c), reversed(chosen), command
    )


def _shared(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings."),
        click.option("-v", "--verbose", is_flag=True, help="Say more about each slice."),
    ):
        command = option(command)
    return command


def _workers(command: Command) -> Command:
    """Add the options that say where tasks run; they never change a byte."""
    for option in (
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


def _read_toml(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(
            code="B111", subject="config", where=path, what=f"unreadable: {error}",
            fix="give a TOML file with keys such as window = 16",
        )  # fmt: skip
        raise BadUsageError(problem) from error


def _resolve(
    model: type[BaseModel],
    preset: dict[str, Any],
    manifest: dict[str, Any],
    file: str | None,
    flags: dict[str, Any],
) -> Any:
    """Merge defaults, preset, manifest, config file and flags; later ones win."""
    value = preset | manifest | _read_toml(file)
    value |= {key: item for key, item in flags.items() if item is not None}
    if value.get("cover") is not None and "n_per_slice" not in {k for k, v in flags.items() if v}:
        value["n_per_slice"] = None
    return read_config(model, value, file or "command line")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn spatial-transcriptomics slices into a fixed, reproducible patch corpus."""


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@_options(GridConfig)
@click.option("--n-per-slice", type=int, default=None, help="Patches per slice to plan for.")
@click.option("--window", type=int, default=None, help="Patch side to plan for.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@_workers
@_shared
def plan(inputs: tuple[str, ...], jobs: int, scheduler: str | None, **flags: Any) -> None:
    """Show what would be built from a MANIFEST or FILES, and what would be refused.

    Example: stbuild plan my/*.h5ad --label layer
    """
    from stbuild.manifests import read_inputs
    from stbuild.pipeline import open_runner
    from stbuild.preview import plan_slice, plan_tasks, shared_genes

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    manifest = read_inputs(inputs)
    presets = (PAPER_GRID, PAPER_SHARDS) if flags["preset"] else ({}, {})
    grid = _resolve(GridConfig, presets[0], manifest.grid, None, _pick(GridConfig, flags))
    shard = _resolve(
        ShardConfig, presets[1], manifest.shard, None,
        {"n_per_slice": flags["n_per_slice"], "window": flags["window"]},
    )  # fmt: skip
    tasks = plan_tasks(manifest, grid, shard)
    with open_runner(jobs, scheduler) as runner, screen.progress() as start:
        outcomes = runner(plan_slice, tasks, start("slices", len(tasks)))
    plans = [outcome.result for outcome in outcomes if outcome.result is not None]
    screen.notices(notice for item in plans for notice in item.notices)
    union, common = shared_genes(plans)
    table = _plan_table(plans)
    evidence = [f"{p.slug}: {p.layout} because {p.evidence}" for p in plans]
    summary = (
        f"{len(plans)} of {len(tasks)} slices can be built; {union:,} genes in all, {common:,} "
        f"measured in every slice; about {format_size(sum(p.shard_bytes for p in plans))} of shards"
    )
    rows = [{k: v for k, v in vars(p).items() if k not in ("genes", "notices")} for p in plans]
    screen.result(
        {"slices": rows, "genes_union": union, "genes_common": common},
        [table, *evidence, summary],
    )
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise merge_errors(errors)


def _plan_table(plans: list["SlicePlan"]) -> Table:
    heads = "slice,layout,grid,filled,median window,spots,genes,labelled,counts per spot"
    table = Table(
        *f"{heads},patches,in shards,memory".split(","), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for p in plans:
        size, memory = format_size(p.shard_bytes), format_size(p.dense_bytes)
        grid, filled = f"{p.shape[0]}x{p.shape[1]}", f"{p.occupancy:.0%}"
        numbers = (p.median_fill, p.n_spots, p.n_genes, p.n_labelled, p.median_total, p.n_patches)
        counted = [f"{number:,}" for number in numbers]
        table.add_row(p.slug, p.layout, grid, filled, *counted, size, memory)
    return table


def _pick(model: type[BaseModel], flags: dict[str, Any]) -> dict[str, Any]:
    return {name: flags[name] for name in model.model_fields if name in flags}


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the grids.")
@_options(GridConfig)
@click.option("--config", type=click.Path(), help="TOML file with keys of the options above.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@click.option("--on-bad", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="Stop at rejected slices, or leave them out and exit with 4.")  # fmt: skip
@_workers
@_shared
def compact(inputs: tuple[str, ...], output: str, **flags: Any) -> None:
    """Compact slices of a MANIFEST or FILES into grids (Zarr v3).

    Example: stbuild compact my/*.h5ad -o grids/ --label layer -j 2
    """
    from stbuild.compact import compact as run_compact
    from stbuild.manifests import read_inputs
    from stbuild.pipeline import open_runner

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    manifest = read_inputs(inputs)
    preset = PAPER_GRID if flags["preset"] else {}
    base = _resolve(GridConfig, preset, manifest.grid, flags["config"], _pick(GridConfig, flags))
    with open_runner(flags["jobs"], flags["scheduler"]) as runner, screen.progress() as start:
        done = start("slices", len(manifest.records))
        skip = flags["on_bad"] == "skip"
        summary = run_compact(manifest, base, Path(output), runner, skip_bad=skip, done=done)
    reports = summary.reports
    screen.notices(notice for report in reports for notice in report.notices)
    n_new = sum(not report.reused for report in reports)
    lines = [
        f"{r.slug}: {r.shape[0]}x{r.shape[1]} {r.layout}, {r.n_spots:,} spots, "
        f"{r.n_genes:,} genes, {r.n_labelled:,} labelled, {format_size(r.n_bytes)}"
        + (" (kept)" if r.reused else "")
        + (f"; {r.evidence}; {r.ledger}" if flags["verbose"] else "")
        for r in reports
    ]
    state = f"{n_new} written, {len(reports) - n_new} kept as they were"
    lines.append(
        f"{len(reports)} grids in {output}: {state}; {sum(r.n_spots for r in reports):,} spots, "
        f"{format_size(sum(r.n_bytes for r in reports))}, {screen.seconds():.1f} s"
    )
    rows = [{k: v for k, v in vars(r).items() if k != "notices"} for r in reports]
    screen.result({"grids": rows, "written": n_new, "rejected": len(summary.rejected)}, lines)
    if summary.rejected:
        error = merge_errors(summary.rejected)
        for problem in error.problems:
            click.echo(json.dumps(problem.as_dict()) if flags["as_json"] else problem, err=True)
        sys.exit(4)


@cli.command()
@click.argument("grids", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the corpus.")
@_options(ShardConfig)
@click.option("--vocabulary", type=click.Path(), help="Genes from another corpus, or a text file; "
              "needed for an evaluation corpus that a trained model is to read.")  # fmt: skip
@click.option("--config", type=click.Path(), help="TOML file with keys of the options above.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@_workers
@_shared
def shard(grids: str, output: str, vocabulary: str | None, **flags: Any) -> None:
    """Write patches of GRIDS into WebDataset shards: a training or an evaluation corpus.

    Training: stbuild shard grids/ -o train/ --n-per-slice 200

    Evaluation: stbuild shard grids/ -o eval/ --cover 8 --draws 4 --vocabulary train/
    """
    from stbuild.build import build_corpus
    from stbuild.catalogue import read_catalogue
    from stbuild.genes import read_vocabulary
    from stbuild.inputs import gather_inputs
    from stbuild.pipeline import open_runner

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    preset = PAPER_SHARDS if flags["preset"] else {}
    manifest = dict(read_catalogue(Path(grids)).shard)
    config = _resolve(ShardConfig, preset, manifest, flags["config"], _pick(ShardConfig, flags))
    given = None if vocabulary is None else read_vocabulary(Path(vocabulary))
    inputs = gather_inputs(Path(grids), config, given)
    with open_runner(flags["jobs"], flags["scheduler"]) as runner, screen.progress() as start:
        summary = build_corpus(inputs, Path(output), runner, started=start)
    screen.notices(summary.notices)
    document, size = summary.document, format_size(summary.n_bytes)
    lines = [f"corpus {document.name}: {document.corpus_id}"]
    if summary.already_done:
        lines.append(f"{output} is finished already; nothing was written")
    else:
        lines += [
            f"{len(document.slices)} slices, {sum(s.n_spots for s in document.slices):,} spots, "
            f"{document.vocabulary.n_genes:,} genes",
            f"{summary.n_windows:,} patches kept of {summary.n_tries:,} windows tried; "
            f"{summary.n_padded_patches:,} padded in genes",
            f"{len(document.shards)} shards, {size}, {screen.seconds():.1f} s",
        ]
    value = {k: v for k, v in vars(summary).items() if k not in ("document", "notices")}
    screen.result(value | {"corpus_id": document.corpus_id}, lines)


@cli.command()
@click.argument("corpora", nargs=-1, required=True, type=click.Path())
@click.option("--quick", is_flag=True, help="Only sizes and SHA-256 of the files.")
@_shared
def verify(corpora: tuple[str, ...], *, quick: bool, **flags: Any) -> None:
    """Re-check every claim of finished CORPORA; name each bad file and sample.

    Example: stbuild verify train/ eval/
    """
    from stbuild.corpus.reader import open_corpus
    from stbuild.verify import verify_corpus

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    reports = []
    with screen.progress() as start:
        for root in corpora:
            total = len(open_corpus(Path(root)).document.shards)
            reports.append(verify_corpus(Path(root), quick=quick, done=start("shards", total)))
    lines = [
        f"{root}: {'BAD' if r.problems else 'good'}, {r.n_files} files, {r.n_samples:,} samples, "
        f"{format_size(r.n_bytes)}, {len(r.problems)} problems"
        for root, r in zip(corpora, reports, strict=True)
    ]
    rows = [{**vars(r), "problems": [p.as_dict() for p in r.problems]} for r in reports]
    screen.result({"corpora": rows, "seconds": round(screen.seconds(), 1)}, lines)
    if problems := [problem for r in reports for problem in r.problems]:
        raise IntegrityError(*problems)


@cli.command()
@click.argument("target", type=click.Path())
@click.argument("key", required=False)
@click.option("-o", "--output", type=click.Path(), help="PNG to write; without it, text.")
@_options(ShardConfig, "name", "n_per_slice", "cover", "draws", "codec", "samples_per_shard",
          "whole_slices", "strict_size", "label_splits")  # fmt: skip
@_shared
def show(target: str, key: str | None, output: str | None, **flags: Any) -> None:
    """Show a grid, or the sample KEY of a corpus, as a picture or as text.

    A slice as in the paper's Figure 2: stbuild show grids/x.zarr -o x.png

    A patch: stbuild show train/ x_w000000 -o patch.png
    """
    from stbuild.showing import describe_grid, show_grid, show_sample

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    config = _resolve(ShardConfig, {}, {}, None, _pick(ShardConfig, flags))
    path, picture = Path(target), None if output is None else Path(output)
    if (path / "zarr.json").is_file() and key is None:
        facts = describe_grid(path) if picture is None else show_grid(path, picture, config)
    elif key is not None:
        facts = show_sample(path, key, picture)
    else:
        problem = Problem(
            code="B007", subject=f"target '{path.name}'", where=target,
            what="neither a grid, nor a corpus with a KEY",
            fix="give grids/<slice>.zarr, or a corpus folder and a sample key",
        )  # fmt: skip
        raise BadInputError(problem)
    screen.result(facts, [f"{name}: {value}" for name, value in facts.items()])


def main() -> NoReturn:
    """Run the command line; the entry point of ``stbuild``."""
    run_program(
        lambda arguments: cli.main(args=arguments, prog_name="stbuild", standalone_mode=False),
        usage=click.ClickException,
        aborted=click.Abort,
    )


if __name__ == "__main__":
    main()
