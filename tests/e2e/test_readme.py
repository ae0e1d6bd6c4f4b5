"""What the README says can be typed, exists; its Python runs; its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import rich_click as click

from stbuild.cli import cli as stbuild
from stbuild.corpus.reader import Corpus
from sttrain.cli import cli as sttrain

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LISTED = (
    *("corpus", "genes", "tasks", "manifests", "reading", "grid", "patches", "build", "plan"),
    *("stream", "model", "train", "release", "embed", "judge"),
)
"""Packages whose modules stand in the README's tree one by one."""
GROUPS: dict[str, click.Group] = {"stbuild": stbuild, "sttrain": sttrain}
TEXTS = {
    "README.md": README,
    **{
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in ("sample/demo.sh", "manifests/methods/README.md")
    },
}


def blocks(language: str) -> list[str]:
    # Every fence is consumed, so that the end of one block is not taken for the start of another.
    fenced = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README)
    return [body for name, body in fenced if name == language]


def commands(text: str) -> list[str]:
    """Return the command lines of our two tools, continuation lines joined, comments cut."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?m)^(?:run )?((?:stbuild|sttrain) +[a-z].*)$", joined)
    return [re.sub(r"\s+", " ", line.partition(" #")[0]).strip() for line in found]


ALL = [
    pytest.param(line, id=f"{name.split('.')[0]}-{number}-{'-'.join(line.split()[:2])}")
    for name, text in TEXTS.items()
    for number, line in enumerate(commands(text if name != "README.md" else "\n".join(blocks(""))))
]


def test_commands_are_found():
    assert len(ALL) >= 15


@pytest.mark.parametrize("line", ALL)
def test_a_command_that_is_shown_exists_with_all_its_options(line: str):
    tool, name, *words = shlex.split(line)
    command = GROUPS[tool].commands.get(name)
    if command is None:
        pytest.fail(f"{tool} has no command {name}; it has {', '.join(GROUPS[tool].commands)}")
    # A group that runs one of its commands without its name has the options of that one too.
    commands = [command, *getattr(command, "commands", {}).values()]
    known = {o for c in commands for p in c.params for o in (*p.opts, *p.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)}
    assert used <= known, f"{sorted(used - known)} not among the options of {tool} {name}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test"} <= shown
    for target in shown - {"alone"}:
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_module_is_in_the_tree():
    tree = next(block for block in blocks("") if block.startswith("stbuild/"))
    for package in ("stbuild", "sttrain"):
        for path in sorted((ROOT / package).rglob("*.py")):
            # A package whose files all do one thing stands there as a whole, with a slash.
            whole = f" {path.parent.name}/" in tree and path.parent.name not in LISTED
            if not path.stem.startswith("__") and not whole:
                assert re.search(rf"\b{path.stem}\b", tree), path


def test_the_python_runs(train_corpus: Corpus):
    (code,) = blocks("python")
    (shard,) = [s for s in train_corpus.document.shards_of("train") if s.path.endswith("00000.tar")]
    code = re.sub(r'urls = \[".*"\]', f"urls = [{str(train_corpus.root / shard.path)!r}]", code)
    code += "\nfound = [patch.meta.key for patch in dataset]\nprint(len(found), len(set(found)))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(shard.n_samples)] * 2
