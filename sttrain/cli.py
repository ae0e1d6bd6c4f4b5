"""The ``sttrain`` command: parse, call one public function, print.

A command body is a thin client of the library; errors become exit codes in
:mod:`stbuild.corpus.console`. Heavy modules are imported inside the command that needs them.
"""

from typing import NoReturn

import rich_click as click

from stbuild.corpus.console import run_program
from sttrain import __version__
from sttrain.commands.bench import bench
from sttrain.commands.embed import embed
from sttrain.commands.fit import fit
from sttrain.commands.judge import cluster, probe, reconstruct, report
from sttrain.commands.published import embed_published_command
from sttrain.commands.release import release

click.rich_click.TEXT_MARKUP = "rich"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Pretrain on a corpus of spatial-transcriptomics patches and judge what was learnt."""


for command in (
    fit, embed, embed_published_command, probe, cluster, reconstruct, bench, report, release,
):  # fmt: skip
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; the entry point of ``sttrain``."""
    run_program(
        lambda arguments: cli.main(args=arguments, prog_name="sttrain", standalone_mode=False),
        usage=click.ClickException,
        aborted=click.Abort,
    )


if __name__ == "__main__":
    main()
