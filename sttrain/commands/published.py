"""The command ``sttrain embed-published``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from stbuild.corpus.documents import read_config
from sttrain.adapters.published import (
    PublishedConfig,
    Request,
    describe_vectors,
    embed_published,
)
from sttrain.commands.options import (
    Command,
    device_option,
    per_member_option,
    replace_option,
    shared_options,
    vectors_option,
)
from sttrain.progress import show_progress


def _config_option(name: str, kind: Any) -> Callable[[Command], Command]:
    """Make the flag of one field of :class:`PublishedConfig`."""
    field = PublishedConfig.model_fields[name]
    default = "none" if field.default is None else field.default
    text = f"{field.description} \\[default: {default}]"
    return click.option(f"--{name.replace('_', '-')}", name, type=kind, default=None, help=text)


@click.command("embed-published")
@click.argument("method", metavar="METHOD")
@click.argument("corpus", type=click.Path(path_type=Path))
@vectors_option
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Folder as the model's authors publish it."
)
@click.option(
    "--gene-table",
    type=click.Path(path_type=Path),
    help="Table of Ensembl ids and symbols (`stbuild genes`), where the corpus has Ensembl ids.",
)
@_config_option("seed", int)
@_config_option("max_length", int)
@_config_option("min_mapped", float)
@_config_option("epochs", int)
@per_member_option
@replace_option
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=Request(config=PublishedConfig()).batch,
    show_default=True,
    help="Spots that are worked on together; it decides no vector.",
)
@device_option
@shared_options
def embed_published_command(method: str, corpus: Path, output: Path, **flags: Any) -> None:
    """Write one vector per measured spot of CORPUS, from the published model METHOD.

    METHOD is scgpt or scgpt-spatial (read natively from --weights), stagate or novae (through
    their packages). What the others need is told in manifests/methods/README.md.

    Example: sttrain embed-published scgpt eval/ --weights scGPT_human/ -o scgpt.h5ad
    """
    given = {n: flags[n] for n in PublishedConfig.model_fields if flags[n] is not None}
    with show_progress("embed", quiet=flags["quiet"]) as progress:
        request = Request(
            config=read_config(PublishedConfig, given, "command line"),
            weights=flags["weights"],
            gene_table=flags["gene_table"],
            batch=flags["batch"],
            device=flags["device"],
            progress=progress,
        )
        more = {name: flags[name] for name in ("per_member", "replace_others")}
        vectors = embed_published(method, corpus, output, request, **more)
    facts = {"output": str(output), "width": vectors.width, "digest": vectors.digest()}
    if flags["as_json"]:
        click.echo(json.dumps(facts | {"provenance": vectors.provenance}, sort_keys=True))
        return
    for line in describe_vectors(vectors.provenance):
        click.echo(line)
    n_spots = sum(len(part.barcodes) for part in vectors.slices.values())
    click.echo(f"{output}: {n_spots:,} vectors of {vectors.width} values")
