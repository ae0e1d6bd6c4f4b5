"""Which locations of a corpus are opened, by which commands, and what the others say."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from stbuild.corpus.errors import PlatformError
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.urls import CORPUS_SCHEMES, refuse_url
from sttrain.cli import cli
from sttrain.errors import BadInputError, RemoteError
from sttrain.stream.remote import is_url, open_location
from tests.corpora import write_corpus

pytest.importorskip("fsspec", reason="URLs need fsspec")

from sttrain.stream.transport import Patience, RemoteFolder

PATIENCE = Patience(attempts=3, wait=0.01, longest_wait=0.02)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("pipe:cat corpus.json", "no blanks"),
        ("pipe:id", "the scheme 'pipe:' is refused"),
        ("file:///etc/", "the scheme 'file:' is refused: only https:, http:, s3:, gs:, hf: are"),
        ("ftp://example.org/corpus", "the scheme 'ftp:' is refused"),
        ("reference://x", "the scheme 'reference:' is refused"),
        ("simplecache::https://example.org/corpus", "the chained scheme 'simplecache::'"),
        ("http://example.org/corpus", "plain http: is opened on this machine only"),
        ("https://me:secret@example.org/corpus", "a user name or a password"),
        ("http://169.254.169.254/latest", "on this machine only"),
        ("https://169.254.169.254/latest", "is not a server's"),
        ("https://example.org/corpus?token=1", "has no '?' and no '#'"),
        ("https://example.org/corpus#x", "has no '?' and no '#'"),
        ("s3://bucket", "name a host or bucket and a file in it"),
        ("s3://bucket/a?versionId=1", "'?' or '#' are refused"),
        ("hf://datasets", "name a host or bucket"),
    ],
)
def test_refused_urls(url, why):
    """L15: nothing is opened or run, and the message says why; secrets are not repeated."""
    with pytest.raises(BadInputError) as caught:
        open_location(url)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf"])
def test_other_stores_are_allowed(scheme):
    assert refuse_url(f"{scheme}://datasets/owner/name", CORPUS_SCHEMES) is None


def test_what_a_url_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_url("https://example.org/x")
    assert is_url("pipe:id")
    assert not is_url("corpus")
    assert not is_url("./a:b")
    assert not is_url(Path("https://example.org"))
    (tmp_path / "a:b").mkdir()
    assert not is_url("a:b"), "a folder of that name is meant"


def test_a_folder_is_opened_as_ever(tmp_path):
    corpus = write_corpus(tmp_path / "c", n_patches=2)
    assert open_location(str(corpus.root)) == open_corpus(corpus.root)


@pytest.mark.parametrize(
    "command",
    [
        ["probe", "https://example.org/eval/", "-o", "results", "--method", "raw"],
        ["probe", "s3://bucket/eval", "-o", "results", "--method", "raw"],
    ],
)
def test_other_commands_say_that_they_read_folders(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, command)
    assert isinstance(result.exception, BadInputError)
    assert "this is a URL, and the command reads folders of this machine" in str(result.exception)
    assert "`sttrain fit` alone reads it where it is" in str(result.exception)


class Store:
    """Stands for a file system of fsspec without our checks."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int, int]] = []

    def cat_file(self, path, start, end):
        self.asked.append((path, start, end))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def folder_of(monkeypatch, *answers) -> tuple[RemoteFolder, Store]:
    import fsspec  # type: ignore[import-untyped]

    store = Store(*answers)
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: store)
    return RemoteFolder("s3://bucket/corpus/", PATIENCE), store


def test_another_store(monkeypatch):
    folder, store = folder_of(monkeypatch, OSError(5, "slow down"), b"short", b"12345678")
    assert folder.read("data/x.tar", 8, 8, 100) == b"12345678"
    assert store.asked == [("s3://bucket/corpus/data/x.tar", 8, 16)] * 3


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ([FileNotFoundError("x")], FileNotFoundError, "there is no such file"),
        ([PermissionError("x")], RemoteError, "may not be read"),
        ([OSError(5, "slow down")] * 3, RemoteError, "the store failed.*given up after 3"),
        ([b"too much of it"] * 3, RemoteError, "14 bytes came, 8 were asked for"),
        ([b"short"] * 3, RemoteError, "5 bytes came, 8 were asked for"),
    ],
)
def test_another_store_fails(monkeypatch, answers, kind, words):
    folder, _ = folder_of(monkeypatch, *answers)
    with pytest.raises(kind, match=words):
        folder.read("data/x.tar", 8, 8, 100)


def test_a_package_is_missing(monkeypatch):
    import fsspec

    def missing(scheme, **_):
        raise ImportError(scheme)

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(PlatformError, match=r"need the package gcsfs.*pip install 'gcsfs'"):
        RemoteFolder("gs://bucket/corpus")


def test_nothing_of_a_network_is_loaded_for_folders(tmp_path):
    """`import sttrain` and local training work without fsspec."""
    import subprocess
    import sys

    code = (
        "import sys, sttrain.cli, sttrain.stream.remote, sttrain.stream.source; "
        "import stbuild.corpus.urls; "
        "print([m for m in ('fsspec', 'aiohttp', 'stamina') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
