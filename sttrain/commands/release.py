"""The command ``sttrain release``."""

import json
from pathlib import Path
from typing import Any

import rich_click as click

from sttrain.commands.options import shared_options


@click.command()
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
@shared_options
def release(run: Path, output: Path, **flags: Any) -> None:
    """Write the weights of RUN as a folder that stands alone: safetensors, config, genes, card.

    The layout is that of the Hugging Face Hub: hf upload OWNER/NAME FOLDER.

    Example: sttrain release run/ -o released/ --corpus train/ --licence CC-BY-4.0
    """
    from sttrain.release.writing import write_release

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
