"""The command ``sttrain bench``: a suite, a submitted file, or a list of what there is."""

import json
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from stbuild.corpus.errors import printable
from sttrain.bench.suite import FOLDER
from sttrain.commands.options import device_option, shared_options
from sttrain.errors import BadUsageError, Problem
from sttrain.progress import show_progress


class SuiteGroup(click.RichGroup):
    """A group whose first argument may be a suite: then the command is ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` in front of what is neither a command nor a question about this one."""
        first = next((word for word in args if word not in {"--debug", "--json"}), None)
        asks = {"--list", "-h", "--help"}.intersection(args[:1]) or "--list" in args
        if first is not None and first not in self.commands and not asks:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=SuiteGroup, invoke_without_command=True)
@click.option("--list", "wanted", is_flag=True, help="Name every kind of method and every suite.")
@click.option(
    "--suites",
    type=click.Path(path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder of suites that --list reads.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def bench(ctx: click.Context, wanted: bool, suites: Path, as_json: bool, debug: bool) -> None:  # noqa: FBT001 - click's flags
    """Judge many methods on many data sets as a suite says.

    sttrain bench SUITE.toml runs a suite (more: sttrain bench run --help), sttrain bench score
    re-scores a submitted file, and sttrain bench --list says what there is.

    Example: sttrain bench manifests/suites/quick.toml --data her2st=eval/ --checkpoint ours=run/
    -o results/
    """
    del debug
    if wanted:
        from sttrain.bench.listing import listing, listing_lines

        found = listing(suites)
        if as_json:
            click.echo(json.dumps(found))
            return
        for line in listing_lines(found, suites):
            click.echo(printable(line))
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@bench.command("run")
@click.argument("suite", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of results; what stands there is not done again.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Evaluation corpus of a data set; NAME/VIEW=FOLDER for the same slices in another "
    "window or with other genes. Repeatable.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=RUN",
    help="Run or released weights, or DATA/NAME=RUN for one data set; embedded once and kept in "
    "vectors/. Repeatable.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="NAME=DIR",
    help="Folder of weights of a published model that runs here. Repeatable.",
)
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="NAME=FILE",
    help="Vectors of a model, or DATA/NAME=FILE for one data set. Repeatable.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the suite, such as probe.seeds=3; what was run stands in NAME.json. "
    "Repeatable.",
)
@click.option(
    "--skip-missing",
    is_flag=True,
    help="Leave out what the suite asks for and is not given; it is counted and told.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fits at the same time; scores do not depend on it.",
)
@device_option
@shared_options
def run(suite: Path, output: Path, **flags: Any) -> None:
    """Run SUITE, or what is missing of it, and write one table of all its rows.

    Example: sttrain bench run manifests/suites/quick.toml --data her2st=eval/
    --checkpoint ours=run/ -j 2 -o results/
    """
    from sttrain.bench.inputs import parse_given
    from sttrain.bench.run import run_suite
    from sttrain.bench.suite import read_suite
    from sttrain.embed.spots import choose_device
    from sttrain.settings import parse_settings

    found = read_suite(suite, parse_settings(flags["settings"]))
    given = parse_given(*(flags[n] for n in ("data", "checkpoints", "weights", "embeddings")))
    with show_progress("bench", quiet=flags["quiet"]) as progress:
        outcome = run_suite(
            found,
            output,
            given=given,
            beside=suite.parent,
            workers=flags["jobs"],
            device=choose_device(flags["device"]),
            skip_missing=flags["skip_missing"],
            progress=progress,
            say=lambda line: click.echo(line, err=True),
        )
    facts = {
        "suite": found.name,
        "rows": len(outcome.rows),
        "computed": outcome.n_computed,
        "reused": outcome.n_reused,
        "skipped": list(outcome.skipped),
        "output": str(output / f"{found.name}.parquet"),
    }
    if flags["as_json"]:
        click.echo(json.dumps(facts, sort_keys=True))
        return
    for line in outcome.skipped:
        click.echo(printable(f"skipped: {line}"))
    click.echo(
        f"{found.name}: {len(outcome.rows):,} rows, {outcome.n_computed:,} fits computed, "
        f"{outcome.n_reused:,} reused, {len(outcome.skipped):,} things skipped"
    )
    click.echo(printable(f"{facts['output']}; next: sttrain report {output} --suite {found.name}"))


@bench.command()
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for NAME-scores.parquet and NAME-scores.csv.",
)
@click.option("--name", help="Name in tables. \\[default: that of the file]")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Expect the first so many seeds of every split. \\[default: all of them]",
)
@shared_options
def score(predictions: Path, corpus: Path, output: Path | None, **flags: Any) -> None:
    """Score submitted PREDICTIONS on CORPUS, an evaluation corpus, ourselves.

    PREDICTIONS is .parquet or .csv: slice, barcode, split, seed, predicted; one row for every
    judged spot of every seed of a split, no other.

    Example: sttrain bench score predictions.parquet eval/ --name theirs -o scores/
    """
    from rich.console import Console

    from sttrain.bench.score import score_file, write_scores
    from sttrain.judge.judged_tables import mean_rows, means_table
    from sttrain.judge.metrics import METRICS

    rows = score_file(predictions, corpus, name=flags["name"], seeds=flags["seeds"])
    files = [str(path) for path in write_scores(rows, output)] if output else []
    pooled = [row for row in rows if row.slice is None]
    means = mean_rows(pooled, ("method", "split"), METRICS)
    if flags["as_json"]:
        click.echo(json.dumps({"table": means, "files": files}, sort_keys=True))
        return
    Console(soft_wrap=True, highlight=False).print(means_table(means))
    for path in files:
        click.echo(printable(path))


def report_suite(root: Path, output: Path | None, flags: dict[str, Any]) -> None:
    """Do what ``sttrain report --suite`` does: write the files, or print the tables.

    Raises
    ------
    BadUsageError
        Options that a suite has no use for, a metric or method that it does not have.
    BadInputError
        No results of the suite.
    """
    from rich.console import Console

    from sttrain.bench.blocks import difference_rows, report_blocks, table_rows
    from sttrain.bench.page import write_bench_report
    from sttrain.bench.summary import read_bench, summarise
    from sttrain.bench.terminal import block_table

    _refuse_unused(flags)
    document, rows = read_bench(root, flags["suite"])
    summary = summarise(
        document,
        rows,
        metrics=flags["metrics"],
        compared=flags["compare"],
        against=flags["against"],
    )
    files: list[str] = []
    if output is not None:
        with show_progress("maps", quiet=flags["quiet"]) as progress:
            maps = not flags["no_maps"]
            made = write_bench_report(root, output, summary, maps=maps, progress=progress)
        files = [str(path) for path in made]
    if flags["as_json"]:
        facts = {"table": table_rows(summary), "differences": difference_rows(summary)}
        remarks = {"remarks": list(summary.remarks), "files": files}
        click.echo(json.dumps(facts | remarks, sort_keys=True))
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        console.width = 200
    for block in report_blocks(summary):
        console.print(block_table(block))
    for line in (*summary.remarks, *files):
        console.print(printable(line), markup=False)


def _refuse_unused(flags: dict[str, Any]) -> None:
    """Refuse options of single slices and seeds: every data set of a suite has its own."""
    fix = "leave it out, or report the folder of one data set without --suite"
    problems = [
        Problem(code="V03", subject=option, what="a suite has no use for it", fix=fix)
        for name, option in (("st_slice", "--slice"), ("seed", "--seed"))
        if flags[name] is not None
    ]
    if problems:
        raise BadUsageError(*problems)
