"""Old and new libraries make the same corpora: the committed digests of a golden one (P15)."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from stbuild.draws import keyed_stream
from tests.archive import golden

ROOT = Path(__file__).parents[2]
WANTED = json.loads((ROOT / "tests" / "archive" / "golden.json").read_text())
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def test_the_running_libraries_make_the_golden_corpora(tmp_path):
    assert golden.digests(tmp_path) == WANTED


def test_draws_of_another_library_are_noticed(tmp_path):
    """As if NumPy's Philox, or what is made of its words, had changed."""

    def stream(purpose: str, seed: int, content: str, number: int) -> np.random.Philox:
        return keyed_stream(purpose, seed + 1, content, number)

    with patch("stbuild.patches.cropping.keyed_stream", stream):
        found = golden.digests(tmp_path, ["hvg", "train"])
    assert found["grids"] == WANTED["grids"]
    assert found["train"]["corpus_id"] != WANTED["train"]["corpus_id"]


def requirements() -> list[str]:
    """Return what the builder needs, as ``pyproject.toml`` says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["build"]]


def interpreter(version: str) -> str:
    """Return the Python of a version, or skip; a shim may stand for one that is not there."""
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "-c", ""], check=False).returncode:
        pytest.skip(f"no Python {version} here")
    return found


def run(*command: object) -> str:
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=told, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif("ST_TOOLCHAIN" not in os.environ, reason="set ST_TOOLCHAIN=1: pip downloads")
@pytest.mark.parametrize("version", [*PYTHONS, "oldest"])
def test_other_libraries_make_the_golden_corpora(tmp_path, version):
    """The newest of every library, on each Python; the oldest that are supported, on the oldest."""
    wanted = [r.replace(">=", "==") if version == "oldest" else r for r in requirements()]
    run(interpreter(PYTHONS[0] if version == "oldest" else version), "-m", "venv", tmp_path / "v")
    python = tmp_path / "v" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", *wanted)
    run(python, "-m", "pip", "install", "-q", "--no-deps", ROOT)
    listed = run(python, "-m", "pip", "freeze")
    sys.stdout.write(listed)  # what `pytest -rP` shows
    assert json.loads(run(python, "-m", "tests.archive.golden")) == WANTED, listed
