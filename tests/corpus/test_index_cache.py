"""A mapped index is the decoded one; whatever is wrong with its file, it is made again."""

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from stbuild.corpus import index_cache
from stbuild.corpus.errors import BadInputError, IntegrityError, ResourceError
from stbuild.corpus.index_cache import open_index
from stbuild.corpus.reader import Corpus, open_corpus
from tests.benchmarks.large_index import write_large_corpus
from tests.benchmarks.measure import ROOT
from tests.corpora import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("mapped") / "corpus", n_patches=15)


@pytest.fixture(autouse=True)
def mapped(monkeypatch):
    """Let even a tiny index be mapped."""
    monkeypatch.setattr(index_cache, "MAPPED_ROWS", 0)


def place(cache: Path) -> Path:
    (found,) = (cache / "index").iterdir()
    return found


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(one)
    )


@pytest.mark.parametrize("kind", ["patch", "slice"])
def test_equal_to_the_decoded_one(corpus, tmp_path, kind):
    expected = corpus.index("train", kind)
    for _ in range(2):  # made, then mapped
        found = open_index(corpus, "train", tmp_path, kind)
        assert same(found, expected)
        assert not found.offset.flags.writeable
    assert found.sha256.dtype == expected.sha256.dtype


def test_the_parquet_is_not_read_again(corpus, tmp_path):
    open_index(corpus, "train", tmp_path / "cache")
    shutil.copytree(corpus.root, tmp_path / "copy")
    (tmp_path / "copy" / "index" / "train.parquet").unlink()
    copy = open_corpus(tmp_path / "copy")
    assert same(open_index(copy, "train", tmp_path / "cache"), corpus.index("train"))


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "cut":
        raw = raw[:-1]
    elif how == "cut to nothing":
        raw = raw[:3]
    elif how == "other magic":
        raw[-1] ^= 1
    elif how == "other length":
        raw[-16:-8] = (2**40).to_bytes(8, "little")
    elif how == "footer":
        raw[-40] ^= 1
    elif how == "another corpus":
        raw = bytearray(raw.replace(path.name.split(".")[0].encode(), b"0" * 64))
    elif how == "keys":
        at = raw.index(b"toy")
        del raw[at]
    elif how == "shard":
        raw[3] = 0x7F
    elif how == "offset":
        raw[128 + 7] = 0x7F
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "how",
    ["cut", "cut to nothing", "other magic", "other length", "footer", "another corpus", "keys",
     "shard", "offset"],
)  # fmt: skip
def test_a_damaged_cache_is_made_again(corpus, tmp_path, how):
    whole = place_after_opening(corpus, tmp_path)
    raw = whole.read_bytes()
    damage(whole, how)
    assert whole.read_bytes() != raw
    assert same(open_index(corpus, "train", tmp_path), corpus.index("train"))
    assert whole.read_bytes() == raw


def place_after_opening(corpus, cache) -> Path:
    open_index(corpus, "train", cache)
    return place(cache)


def test_a_link_is_not_followed(corpus, tmp_path):
    whole = place_after_opening(corpus, tmp_path)
    whole.rename(tmp_path / "elsewhere")
    whole.symlink_to(tmp_path / "elsewhere")
    open_index(corpus, "train", tmp_path)
    assert not whole.is_symlink()


def test_a_changed_index_is_refused(corpus, tmp_path):
    shutil.copytree(corpus.root, tmp_path / "copy")
    path = tmp_path / "copy" / "index" / "train.parquet"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_index(open_corpus(tmp_path / "copy"), "train", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_no_such_split(corpus, tmp_path):
    with pytest.raises(BadInputError, match=r"it has no index/test\.parquet"):
        open_index(corpus, "test", tmp_path)


def test_a_cache_that_cannot_be_written(corpus, tmp_path):
    (tmp_path / "index").write_text("in the way")
    with pytest.raises(ResourceError, match="another folder for the cache"):
        open_index(corpus, "train", tmp_path)


MEASURE = """
import sys
from pathlib import Path
from tests.benchmarks.large_index import measure_start

for name in ("few", "many"):
    print(*measure_start(Path(sys.argv[1], name), Path(sys.argv[1], "cache")))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """What 200,000 patches leave in the memory of a process that has opened a few before."""
    write_large_corpus(tmp_path / "few", 3000)
    write_large_corpus(tmp_path / "many", 200_000)
    open_index(open_corpus(tmp_path / "many"), "train", tmp_path / "cache")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    grown = int(done.stdout.splitlines()[1].split()[1])
    assert grown < 5 * 2**20, "keys alone would be 14 MB as Python strings"
