"""``stbuild push``: flags, what is shown, and what a missing package is called."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stbuild.cli import cli
from stbuild.corpus.errors import BadUsageError, PlatformError
from stbuild.publish.push.run import push_release
from tests.pushing import contents_of, write_release
from tests.remotes import TOKEN, serve_zenodo


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(
        cli, ["push", *map(str, arguments)], catch_exceptions=False, standalone_mode=False
    )


def test_a_dry_run_lists_path_size_and_digest(release, monkeypatch):
    monkeypatch.delenv("ZENODO_TOKEN", raising=False)
    done = run(release, "zenodo", "--dry-run")
    for path, raw in contents_of(release).items():
        (line,) = [line for line in done.output.splitlines() if line.endswith(f"  {path}")]
        assert f" {len(raw):,} " in line
        assert line.startswith("to send ")
    assert "zenodo at zenodo.org was not asked" in done.output


def test_a_push_and_its_json(release, monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    with serve_zenodo() as zenodo:
        flags = (release, "zenodo", "--endpoint", zenodo.url)
        done = run(*flags)
        assert "shows strangers nothing of it yet" in done.output
        assert "run the same command with --confirm" in " ".join(done.output.split())
        value = json.loads(run(*flags, "--confirm", "--json").output)
        assert value["is_public"]
        assert zenodo.records() == [100]
        assert TOKEN not in done.output + json.dumps(value)


def test_a_token_is_no_argument(release):
    names = {name for option in cli.commands["push"].params for name in option.opts}
    assert not [name for name in names if "token" in name]
    with pytest.raises(BadUsageError, match="P50"):
        run(release, "ftp:somewhere")


def test_without_the_client_of_the_hub(release, monkeypatch):
    true_import = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return true_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PlatformError, match=r"pip install 'stcorpus\[publish\]'"):
        push_release(release, "hf:our-lab/toy", dry_run=True)


def test_publish_sends_the_release_on(tmp_path, monkeypatch):
    archive = Path(__file__).parents[1] / "archive" / "v1" / "train"
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    with serve_zenodo() as zenodo:
        done = CliRunner().invoke(
            cli,
            ["publish", str(archive), "-o", str(tmp_path / "release"), "--json", "--quiet",
             "--i-may-redistribute", "unknown", "--author", "A. Lab",
             "--push", "zenodo", "--endpoint", zenodo.url, "--confirm"],
            catch_exceptions=False, standalone_mode=False,
        )  # fmt: skip
        value = json.loads(done.stdout)
        assert value["is_public"]
        sent = {file["path"] for file in value["files"]}
        assert {"README.md", "croissant.json", "corpus.json", "SHA256SUMS"} <= sent
