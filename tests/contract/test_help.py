"""What ``--help`` shows: every option is explained, and no markup is left in the text."""

import re
from itertools import pairwise

import click
import pytest
from click.testing import CliRunner

from stbuild.cli import cli as stbuild
from sttrain.cli import cli as sttrain

PROGRAMS = {"stbuild": stbuild, "sttrain": sttrain}
COMMANDS = [
    (program, name) for program, group in PROGRAMS.items() for name in sorted(group.commands)
]


@pytest.mark.parametrize(("program", "name"), COMMANDS, ids=lambda value: value)
def test_every_option_is_explained(program, name):
    command = PROGRAMS[program].commands[name]
    for option in command.params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert len(text.split()) > 1, option.name
            assert not text.startswith("None"), option.name
    flags = [flag for option in command.params for flag in (*option.opts, *option.secondary_opts)]
    assert all(one != two for one, two in pairwise(sorted(flags)))


@pytest.mark.parametrize(("program", "name"), COMMANDS, ids=lambda value: value)
def test_help_is_whole_text_with_an_example(program, name):
    done = CliRunner().invoke(PROGRAMS[program], [name, "--help"])
    assert done.exit_code == 0
    head = done.stdout.partition("─ Options")[0]
    assert f"{program} {name} " in head, "an example"
    assert "\\" not in done.stdout
    assert "[/" not in done.stdout
    # What looks like markup to rich and is not escaped would be gone.
    command = PROGRAMS[program].commands[name]
    shown = re.sub(r"[\s│]+", "", done.stdout)
    for option in command.params:
        for bracket in re.findall(r"\[[^\]]*\]", getattr(option, "help", None) or ""):
            assert re.sub(r"\s+", "", bracket) in shown, option.name
