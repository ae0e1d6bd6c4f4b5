"""Commands that judge: probe, cluster, reconstruct, report. Registered in the cli."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from stbuild.corpus.documents import Document, read_config
from sttrain.commands.options import shared_options
from sttrain.judge.clustering import ALGORITHMS
from sttrain.judge.probe_config import HEADS, ClusterConfig, ProbeConfig, ReconstructConfig
from sttrain.judge.report import ALL_METRICS, REFERENCES, SHOWN
from sttrain.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from sttrain.judge.candidates import EmbeddingFile
    from sttrain.judge.results import ResultRow


def _help(config: type[Document], name: str) -> str:
    """Return what a field of a configuration says, with its default."""
    field = config.model_fields[name]
    default = field.default
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
    repeatable = " Repeatable." if isinstance(default, tuple) else ""
    return (
        f"{field.description}{repeatable} \\[default: {'none' if shown in (None, '') else shown}]"
    )


def _given(config: type[Document], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, of those that a configuration has."""
    return {n: flags[n] for n in config.model_fields if flags.get(n) not in (None, ())}


_results_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of results; an existing one of this corpus is continued.",
)
_methods_option = click.option(
    "--method",
    "methods",
    multiple=True,
    help="Control: majority, coords, coords-shuffled, libsize, raw, pcaD, nbmeanK-pcaD, "
    "banksyK-pcaD; with -centred, slices are centred first. Repeatable.",
)
_embeddings_option = click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="NAME=FILE",
    help="Vectors to judge: .h5ad (obsm X_sttrain, or FILE.h5ad:KEY), .parquet, or .npy with "
    "FILE.barcodes.txt. Repeatable.",
)
_jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fits at the same time; scores do not depend on it.",
)


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@_results_option
@_methods_option
@_embeddings_option
@click.option("--split", "splits", multiple=True, help=_help(ProbeConfig, "splits"))
@click.option(
    "--head", "heads", multiple=True, type=click.Choice(HEADS), help=_help(ProbeConfig, "heads")
)
@click.option("--seeds", type=int, help=_help(ProbeConfig, "seeds"))
@click.option("--held-out-seeds", type=int, help=_help(ProbeConfig, "held_out_seeds"))
@click.option("--reduce", type=int, multiple=True, help=_help(ProbeConfig, "reduce"))
@click.option("--k", type=int, help=_help(ProbeConfig, "k"))
@click.option("--mlp-epochs", type=int, help=_help(ProbeConfig, "mlp_epochs"))
@click.option("--mlp-patience", type=int, help=_help(ProbeConfig, "mlp_patience"))
@click.option("--mlp-steps", type=int, help=_help(ProbeConfig, "mlp_steps"))
@click.option(
    "--replace",
    is_flag=True,
    help="Drop stored results of an embedding whose vectors have changed, and of its reductions; "
    "clusters and filled regions of its name go too.",
)
@_jobs_option
@shared_options
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
    from sttrain.judge.candidates import parse_embedding
    from sttrain.judge.probes import probe_corpus

    files = [parse_embedding(text) for text in embeddings]
    with show_progress("probe", quiet=flags["quiet"]) as progress:
        outcome = probe_corpus(
            corpus,
            output,
            methods=methods,
            embeddings=files,
            config=read_config(ProbeConfig, _given(ProbeConfig, flags), "command line"),
            workers=flags["jobs"],
            replace=flags["replace"],
            progress=progress,
        )
    _record_files(output, files, quiet=flags["quiet"])
    made = {"computed": outcome.n_computed, "reused": outcome.n_reused, "output": str(output)}
    if outcome.needless:
        made["not reduced, no wider than that"] = list(outcome.needless)
    if outcome.unknown:
        made["not held out"] = list(outcome.unknown)
    _print_report(outcome.rows, flags, made)


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@_results_option
@_methods_option
@_embeddings_option
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(ALGORITHMS),
    help=_help(ClusterConfig, "algorithms"),
)
@click.option(
    "--number",
    "numbers",
    multiple=True,
    type=click.Choice(["true", "estimated"]),
    help=_help(ClusterConfig, "numbers"),
)
@click.option("--seeds", type=int, help=_help(ClusterConfig, "seeds"))
@click.option("--dims", type=int, help=_help(ClusterConfig, "dims"))
@_jobs_option
@shared_options
def cluster(
    corpus: Path,
    output: Path,
    methods: tuple[str, ...],
    embeddings: tuple[str, ...],
    **flags: Any,
) -> None:
    """Find the domains of every labelled slice of CORPUS without labels, and compare with them.

    ARI and NMI with the labels, CHAOS and PAS of the domains alone (lower is smoother). Shown
    are the means of what this command asks for, whatever else stands in the folder.

    Example: sttrain cluster eval/ --method nbmean6-pca50 --embedding ours=ours.h5ad
    --algorithm kmeans --algorithm gmm -o results/
    """
    from sttrain.judge.candidates import parse_embedding
    from sttrain.judge.cluster import cluster_corpus
    from sttrain.judge.judged_tables import mean_rows

    files = [parse_embedding(text) for text in embeddings]
    with show_progress("cluster", quiet=flags["quiet"]) as progress:
        outcome = cluster_corpus(
            corpus,
            output,
            methods=methods,
            embeddings=files,
            config=read_config(ClusterConfig, _given(ClusterConfig, flags), "command line"),
            workers=flags["jobs"],
            progress=progress,
        )
    _record_files(output, files, quiet=flags["quiet"])
    made = {"computed": outcome.n_computed, "reused": outcome.n_reused, "output": str(output)}
    if outcome.left_out:
        made["not judged, without labels of two classes"] = list(outcome.left_out)
    means = mean_rows(
        outcome.asked,
        ("method", "algorithm", "number"),
        ("ari", "nmi", "chaos", "pas", "n_domains"),
    )
    _print_means(means, flags, made)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("corpus", type=click.Path(path_type=Path))
@_results_option
@click.option("--name", default="ours", show_default=True, help="Name of CHECKPOINT in tables.")
@click.option("--untrained", is_flag=True, help="Judge the run's first weights too, as untrained.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=CHECKPOINT",
    help="A further checkpoint. Repeatable.",
)
@click.option(
    "--window", "windows", type=int, multiple=True, help=_help(ReconstructConfig, "windows")
)
@click.option("--size", "sizes", type=int, multiple=True, help=_help(ReconstructConfig, "sizes"))
@click.option("--genes", type=int, help=_help(ReconstructConfig, "genes"))
@click.option("--repeats", type=int, help=_help(ReconstructConfig, "repeats"))
@click.option("--seed", type=int, help=_help(ReconstructConfig, "seed"))
@click.option("--slice", "slices", multiple=True, help="Slice. Repeatable. \\[default: all]")
@shared_options
def reconstruct(
    checkpoint: Path, corpus: Path, output: Path, slices: tuple[str, ...], **flags: Any
) -> None:
    """Hide squares of the slices of CORPUS and compare what CHECKPOINT fills them with.

    Gene means, the mean of the 16 nearest spots and inverse distances are always judged beside it;
    shown are the means of what this command asks for, whatever else stands in the folder.
    CORPUS is any corpus with whole slices; labels are not needed.

    Example: sttrain reconstruct run/ eval/ --window 24 --size 4 --size 8 -o results/
    """
    from sttrain.judge.judged_tables import mean_rows
    from sttrain.judge.reconstruct import parse_models, reconstruct_corpus
    from sttrain.judge.reconstruction import REGION_METRICS

    with show_progress("reconstruct", quiet=flags["quiet"]) as progress:
        outcome = reconstruct_corpus(
            corpus,
            output,
            models=parse_models(
                checkpoint, flags["name"], flags["models"], untrained=flags["untrained"]
            ),
            slices=slices,
            config=read_config(ReconstructConfig, _given(ReconstructConfig, flags), "command line"),
            progress=progress,
            say=lambda line: click.echo(line, err=True),
        )
    made = {"computed": outcome.n_computed, "reused": outcome.n_reused, "output": str(output)}
    _print_means(
        mean_rows(outcome.asked, ("method", "window", "size"), REGION_METRICS), flags, made
    )


def _record_files(output: Path, files: "Sequence[EmbeddingFile]", *, quiet: bool) -> None:
    """Write where judged vectors come from beside the results, and say where nothing tells it."""
    from sttrain.embed.external import record_provenance

    remarks = record_provenance(output, files)
    for remark in () if quiet else remarks:
        click.echo(remark, err=True)


def _print_means(
    means: "Sequence[dict[str, Any]]", flags: dict[str, Any], made: dict[str, Any]
) -> None:
    """Print a table of means, and what was made, for people or for machines."""
    from rich.console import Console

    from sttrain.judge.judged_tables import means_table

    if flags["as_json"]:
        click.echo(json.dumps({"table": means} | made, sort_keys=True))
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        console.width = 200
    console.print(means_table(means))
    _print_made(console, made)


@click.command()
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
@click.option(
    "--slice",
    "st_slice",
    help="Slice of the maps; not with --suite. \\[default: the most labelled one]",
)
@click.option("--seed", type=int, help="Seed of the maps; not with --suite. \\[default: the first]")
@click.option(
    "--suite",
    help="RESULTS is the folder of `sttrain bench -o`: report this suite, with confidence "
    "intervals, ranks, printed numbers and an HTML page.",
)
@click.option("--no-maps", is_flag=True, help="No pictures; matplotlib is not needed.")
@shared_options
def report(results: Path, output: Path | None, **flags: Any) -> None:
    """Show what `sttrain probe` stored in RESULTS: table, paired differences, domain maps.

    With --suite, show what `sttrain bench` stored of a suite.

    Example: sttrain report results/ -o report/ --against raw --against untrained
    """
    if flags["suite"] is not None:
        from sttrain.commands.bench import report_suite

        report_suite(results, output, flags)
        return
    from sttrain.judge.report import build_report, write_report
    from sttrain.judge.results import open_store

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

    from sttrain.judge.report import build_report
    from sttrain.judge.tables import terminal_tables

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
    _print_made(console, made)


def _print_made(console: "Console", made: dict[str, Any]) -> None:
    for name, value in made.items():
        shown = "\n  ".join(["", *value]) if isinstance(value, list) else f" {value}"
        console.print(f"{name}:{shown}", markup=False)
