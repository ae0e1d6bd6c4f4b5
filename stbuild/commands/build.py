"""Commands that build: plan, compact and shard."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from stbuild.commands.options import (
    model_options,
    open_workers,
    pick_fields,
    resolve_config,
    resolve_given,
    shared_options,
    source_options,
    worker_options,
)
from stbuild.commands.push import (
    object_option,
    push_objects,
    refuse_url_output,
    require_objects,
)
from stbuild.config import PAPER_GRID, PAPER_SHARDS, GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadUsageError, Problem, merge_errors
from stbuild.corpus.names import slugify
from stbuild.screen import Screen, format_size

if TYPE_CHECKING:
    from stbuild.corpus.documents import CorpusDocument
    from stbuild.manifests.manifest import Manifest
    from stbuild.plan.preview import SlicePlan
    from stbuild.reading.jail import Limits


def _gather(
    inputs: tuple[str, ...], preset: dict[str, Any], flags: dict[str, Any]
) -> "tuple[Manifest, GridConfig, Limits]":
    """Read the manifest or the list of paths, and find the sections of files to be split."""
    from stbuild.manifests.manifest import read_inputs
    from stbuild.reading.jail import Limits
    from stbuild.reading.sections import expand_sections

    manifest = read_inputs(inputs)
    own = {name: flags[name] for name in ("positions", "labels_file") if flags[name]}
    if own and len(manifest.records) > 1:
        problem = Problem(
            code="B101", subject="inputs",
            what=f"--{'/--'.join(sorted(own)).replace('_', '-')} belongs to one input, but "
            f"{len(manifest.records)} were given",
            fix="give one input, or a manifest with these columns",
        )  # fmt: skip
        raise BadUsageError(problem)
    if flags["split_by"]:
        own["split_by"] = flags["split_by"]
    records = tuple(replace(record, **own) for record in manifest.records)
    manifest = replace(manifest, records=records)
    config = resolve_config(
        GridConfig, preset, manifest.grid, flags.get("config"), pick_fields(GridConfig, flags),
        place=f"{inputs[0]}: [grid]",
    )  # fmt: skip
    limits = Limits(seconds=flags["probe_timeout"], gib=flags["probe_memory"])
    return expand_sections(manifest, config, limits), config, limits


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@model_options(GridConfig)
@source_options
@click.option("--n-per-slice", type=int, default=None, help="Patches per slice to plan for.")
@click.option("--window", type=int, default=None, help="Patch side to plan for.")
@click.option("--genes", type=int, default=None, help="Genes of a patch to plan for.")
@click.option("--cover", type=int, default=None, help="Stride of an evaluation corpus to plan for.")
@click.option("--config", type=click.Path(), help="TOML file with keys of the options above.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@click.option("--report", type=click.Path(), help="HTML page to write: one file, no network.")
@worker_options
@shared_options
def plan(inputs: tuple[str, ...], **flags: Any) -> None:
    """Show what would be built from a MANIFEST, FILES or FOLDERS, and what would be refused.

    Example: stbuild plan my/*.h5ad spaceranger/sample1 --label layer --report qc.html
    """
    from stbuild.plan.preview import plan_slice, plan_tasks, refuse_clashes, shared_genes
    from stbuild.splits import doubtful_splits

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    presets = (PAPER_GRID, PAPER_SHARDS) if flags["preset"] else ({}, {})
    manifest, grid, limits = _gather(inputs, presets[0], flags)
    wanted = {name: flags[name] for name in ("n_per_slice", "window", "genes", "cover")}
    place = f"{inputs[0]}: [shard]"
    shard = resolve_config(ShardConfig, presets[1], manifest.shard, None, wanted, place=place)
    table = None if flags["gene_table"] is None else Path(flags["gene_table"])
    tasks = plan_tasks(
        manifest, grid, shard, table=table, limits=limits, pictures=flags["report"] is not None
    )
    with open_workers(flags, screen.say) as runner, screen.progress() as start:
        outcomes = runner(plan_slice, tasks, start("slices", len(tasks)))
    outcomes = refuse_clashes(tasks, outcomes)
    plans = [outcome.result for outcome in outcomes if outcome.result is not None]
    screen.notices(doubtful_splits([record.split for record in manifest.records]))
    screen.notices(notice for item in plans for notice in item.notices)
    union, common = shared_genes(plans)
    summary = {"slices": len(tasks), "good": len(plans), "genes_union": union,
               "genes_common": common, "patches": sum(p.n_patches for p in plans),
               "shard_bytes": sum(p.shard_bytes for p in plans),
               "seconds": round(sum(p.seconds for p in plans), 1),
               "memory_bytes": max((p.memory_bytes for p in plans), default=0)}  # fmt: skip
    evidence = [f"{p.slug}: {p.layout} because {p.evidence}" for p in plans]
    line = (
        f"{len(plans)} of {len(tasks)} slices can be built; {union:,} genes in all, {common:,} "
        f"measured in every slice; {summary['patches']:,} patches, about "
        f"{format_size(summary['shard_bytes'])} of shards; about {summary['seconds']:,.0f} s of "
        f"one core, {format_size(summary['memory_bytes'])} a worker"
    )
    value = summary | {"n_slices": len(tasks), "slices": [p.as_row() for p in plans]}
    screen.result(value, [_plan_table(plans), *evidence, line])
    if flags["report"] is not None:
        from stbuild.plan.page import write_qc

        write_qc(Path(flags["report"]), manifest.name, tasks, outcomes, summary)
        screen.say(f"report: {flags['report']}")
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise merge_errors(errors)


def _plan_table(plans: list["SlicePlan"]) -> Table:
    heads = "slice,layout,grid,filled,median window,spots,genes,labelled,counts per spot"
    table = Table(
        *f"{heads},patches,in shards,memory,time".split(","), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for p in plans:
        size, memory = format_size(p.shard_bytes), format_size(p.memory_bytes)
        grid, filled = f"{p.shape[0]}x{p.shape[1]}", f"{p.occupancy:.0%}"
        numbers = (p.median_fill, p.n_spots, p.n_genes, p.n_labelled, p.median_total, p.n_patches)
        counted = [f"{number:,}" for number in numbers]
        table.add_row(p.slug, p.layout, grid, filled, *counted, size, memory, f"{p.seconds:.1f} s")
    return table


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the grids.")
@model_options(GridConfig)
@source_options
@click.option("--config", type=click.Path(), help="TOML file with keys of the options above.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@click.option("--on-bad", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="Stop at rejected slices, or leave them out and exit with 4.")  # fmt: skip
@object_option
@worker_options
@shared_options
def compact(inputs: tuple[str, ...], output: str, target: str | None, **flags: Any) -> None:
    """Compact slices of a MANIFEST, FILES or FOLDERS into grids (Zarr v3).

    Example: stbuild compact my/*.h5ad -o grids/ --label layer -j 2
    """
    from stbuild.grid.compact import compact as run_compact
    from stbuild.splits import doubtful_splits

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    refuse_url_output(output)
    require_objects(target)
    manifest, base, limits = _gather(inputs, PAPER_GRID if flags["preset"] else {}, flags)
    table = None if flags["gene_table"] is None else Path(flags["gene_table"])
    with open_workers(flags, screen.say) as runner, screen.progress() as start:
        done = start("slices", len(manifest.records))
        summary = run_compact(
            manifest, base, Path(output), runner, table=table, limits=limits,
            skip_bad=flags["on_bad"] == "skip", done=done,
        )  # fmt: skip
    reports = summary.reports
    screen.notices(doubtful_splits([record.split for record in manifest.records]))
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
    push_objects(output, target, screen)
    screen.result({"grids": rows, "written": n_new, "rejected": len(summary.rejected)}, lines)
    if summary.rejected:
        error = merge_errors(summary.rejected)
        for problem in error.problems:
            click.echo(json.dumps(problem.as_dict()) if flags["as_json"] else problem, err=True)
        sys.exit(4)


@click.command()
@click.argument("grids", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the corpus.")
@model_options(ShardConfig)
@click.option("--vocabulary",
              help="union, intersection or share:X of the training slices' genes; or a corpus or "
              "text file: an evaluation corpus takes that of the training corpus. "
              "\\[default: union; with --extend, the rule of that corpus]")  # fmt: skip
@click.option("--extend", type=click.Path(),
              help="Finished corpus to go on from: its shards stay as they are, slices of GRIDS "
              "that it does not have are added, new genes are appended.")  # fmt: skip
@click.option("--mixed-ids", is_flag=True,
              help="Allow Ensembl ids beside symbols, or with versions beside none.")  # fmt: skip
@click.option("--mixed-species", is_flag=True, help="Allow human slices beside mouse slices.")
@click.option("--config", type=click.Path(), help="TOML file with keys of the options above.")
@click.option("--preset", type=click.Choice(["paper"]), help="The paper's literal settings.")
@object_option
@worker_options
@shared_options
def shard(grids: str, output: str, target: str | None, **flags: Any) -> None:
    """Write patches of GRIDS into WebDataset shards: a training or an evaluation corpus.

    Training: stbuild shard grids/ -o train/ --n-per-slice 200

    Evaluation: stbuild shard grids/ -o eval/ --cover 8 --draws 4 --vocabulary train/

    More slices: stbuild shard grids/ -o train-v2/ --extend train/
    """
    from stbuild.build.building import build_corpus
    from stbuild.build.extension import extend_config, gather_extension
    from stbuild.build.inputs import gather_inputs
    from stbuild.corpus.reader import open_corpus
    from stbuild.genes.vocabulary import Vocabulary, require_measured
    from stbuild.grid.catalogue import GRIDS_JSON, read_catalogue
    from stbuild.splits import doubtful_splits

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    refuse_url_output(output)
    require_objects(target)
    preset = PAPER_SHARDS if flags["preset"] else {}
    catalogue = read_catalogue(Path(grids))
    manifest = {"name": slugify(catalogue.name)} | dict(catalogue.shard)
    mixed = {name: flags[name] for name in ("mixed_ids", "mixed_species")}
    genes, earlier = _read_genes(flags["vocabulary"]), None
    if flags["extend"] is None:
        config = resolve_config(
            ShardConfig, preset, manifest, flags["config"], pick_fields(ShardConfig, flags),
            place=f"{Path(grids) / GRIDS_JSON}: shard",
        )  # fmt: skip
        inputs = gather_inputs(Path(grids), config, genes, **mixed)
    else:
        base = open_corpus(Path(flags["extend"]))
        given = resolve_given(preset, manifest, flags["config"], pick_fields(ShardConfig, flags))
        config = extend_config(base, given)
        inputs, earlier = gather_extension(Path(grids), base, config, genes, **mixed)
    if isinstance(genes, Vocabulary):
        require_measured(genes, inputs.genes, Path(flags["vocabulary"]))
    with open_workers(flags, screen.say) as runner, screen.progress() as start:
        summary = build_corpus(inputs, Path(output), runner, earlier=earlier, started=start)
    screen.notices((*doubtful_splits(list(inputs.split_of.values())), *summary.notices))
    document, size = summary.document, format_size(summary.n_bytes)
    lines = [f"corpus {document.name}: {document.corpus_id}"]
    if summary.already_done:
        lines.append(f"{output} is finished already; nothing was written")
    else:
        lines += [
            f"{len(document.slices)} slices ({_count_splits(document)}), "
            f"{sum(s.n_spots for s in document.slices):,} spots, "
            f"{document.vocabulary.n_genes:,} genes",
            f"{summary.n_windows:,} patches kept of {summary.n_tries:,} windows tried; "
            f"{summary.n_padded_patches:,} padded in genes",
            f"{len(document.shards)} shards, {size}, {screen.seconds():.1f} s",
        ]
    value = {k: v for k, v in vars(summary).items() if k not in ("document", "notices")}
    push_objects(output, target, screen)
    screen.result(value | {"corpus_id": document.corpus_id}, lines)


def _count_splits(document: "CorpusDocument") -> str:
    times = Counter(entry.split for entry in document.slices)
    return ", ".join(f"{split} {n:,}" for split, n in sorted(times.items()))


def _read_genes(vocabulary: str | None) -> Any:
    from stbuild.genes.vocabulary import is_rule, read_vocabulary

    if vocabulary is None or is_rule(vocabulary):
        return vocabulary
    return read_vocabulary(Path(vocabulary))
