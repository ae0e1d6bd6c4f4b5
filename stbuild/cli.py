"""The ``stbuild`` command: parse, call one public function, print.

A command body is a thin client of the library; errors become exit codes in
:mod:`stbuild.corpus.console`. Options that change bytes are made from the fields of the
configuration models, so a default stands in one place only.
"""

from typing import NoReturn

import rich_click as click

from stbuild import __version__
from stbuild.commands.build import compact, plan, shard
from stbuild.commands.fetch import fetch
from stbuild.commands.finished import diff, genes, leakage, rebuild, repair, show, verify
from stbuild.commands.publish import publish
from stbuild.commands.push import push
from stbuild.corpus.console import run_program


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn spatial-transcriptomics slices into a fixed, reproducible patch corpus."""


for command in (
    plan, compact, shard, fetch, publish, push, leakage, genes, verify, show, diff, rebuild, repair,
):  # fmt: skip
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; the entry point of ``stbuild``."""
    run_program(
        lambda arguments: cli.main(args=arguments, prog_name="stbuild", standalone_mode=False),
        usage=click.ClickException,
        aborted=click.Abort,
    )


if __name__ == "__main__":
    main()
