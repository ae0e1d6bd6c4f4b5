"""The ``sttrain`` command: parse, call one public function, print.

A command body is a thin client of the library; errors become exit codes in
:mod:`stbuild.corpus.console`. Heavy modules are imported inside the command that needs them.
"""

from typing import NoReturn

import rich_click as click

from stbuild.corpus.console import run_program
from sttrain import __version__

click.rich_click.TEXT_MARKUP = "rich"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Pretrain on a corpus of spatial-transcriptomics patches and judge what was learnt."""


# --- fit ------------------------------------------------------------------------------------


# --- embed, probe, report -------------------------------------------------------------------


def main() -> NoReturn:
    """Run the command line; the entry point of ``sttrain``."""
    run_program(
        lambda arguments: cli.main(args=arguments, prog_name="sttrain", standalone_mode=False),
        usage=click.ClickException,
        aborted=click.Abort,
    )


if __name__ == "__main__":
    main()
