"""The command ``sttrain embed``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import rich_click as click

from sttrain.commands.options import (
    device_option,
    per_member_option,
    replace_option,
    shared_options,
    vectors_option,
)
from sttrain.progress import show_progress

_EMBED_FLAGS: Final = ("untrained", "per_member", "replace_others", "batch", "device")
_INFERENCE_FLAGS: Final = ("layer", "neighbours", "centre", "components", "whiten", "expression")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("corpus", type=click.Path(path_type=Path))
@vectors_option
@click.option(
    "--untrained",
    is_flag=True,
    help="Use the run's weights before its first step: the control of every table.",
)
@per_member_option
@replace_option
@click.option(
    "--layer",
    type=click.IntRange(0),
    help="Features after this many layers, 0 = site tokens. \\[default: the recipe's]",
)
@click.option(
    "--neighbours",
    type=click.IntRange(0),
    help="Average each vector with those of so many nearest spots. \\[default: the recipe's]",
)
@click.option(
    "--centre/--no-centre",
    default=None,
    help="Take off each slice's mean vector. \\[default: the recipe's]",
)
@click.option(
    "--components",
    type=click.IntRange(1),
    help="Keep so many principal components over all spots. \\[default: the recipe's]",
)
@click.option(
    "--whiten",
    type=click.FloatRange(0, 1),
    help="Divide those by their standard deviation to this power. \\[default: the recipe's]",
)
@click.option(
    "--expression",
    type=click.IntRange(0),
    help="Put so many principal components of expression beside them. \\[default: the recipe's]",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Patches that are encoded together.",
)
@device_option
@shared_options
def embed(checkpoint: Path, corpus: Path, output: Path, **flags: Any) -> None:
    """Write one vector per measured spot of CORPUS, from the encoder of CHECKPOINT.

    CHECKPOINT is a run folder, one of its checkpoints, a folder of released weights or
    hf:OWNER/NAME; CORPUS an evaluation corpus over the genes of the training corpus. Overlapping
    windows and gene draws are averaged.

    Example: sttrain embed run/ eval/ -o ours.h5ad
    """
    from sttrain.embed.spots import embed_checkpoint

    told = {name: flags[name] for name in _INFERENCE_FLAGS if flags[name] is not None}
    with show_progress("embed", quiet=flags["quiet"]) as progress:
        outcome = embed_checkpoint(
            checkpoint,
            corpus,
            output,
            **{name: flags[name] for name in _EMBED_FLAGS},
            inference=told,
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
