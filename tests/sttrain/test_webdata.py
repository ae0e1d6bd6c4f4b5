"""The plain webdataset route reads the same samples as our loader."""

import gc
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sttrain.errors import BadInputError, IntegrityError
from sttrain.stream.batches import PatchSource
from sttrain.stream.webdata import open_webdataset
from tests.benchmarks.measure import ROOT
from tests.corpora import write_corpus

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collected():
    """Let the collector close them here and not in the middle of some later test."""
    yield
    gc.collect()


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_equal_to_our_loader(tmp_path, codec):
    corpus = write_corpus(tmp_path / "c", codec=codec)
    source = PatchSource(corpus, "train")
    counts, genes, totals = source.read(range(len(source)))
    patches = list(open_webdataset(corpus.root))
    assert [patch.meta.key for patch in patches] == list(source.index.keys)
    for i, patch in enumerate(patches):
        assert np.array_equal(patch.counts, counts[i])
        assert np.array_equal(patch.genes, genes[i])
        assert np.array_equal(patch.totals, totals[i])


def test_another_decoder(tmp_path):
    corpus = write_corpus(tmp_path / "c", n_patches=3)
    keys = list(open_webdataset(corpus.root, decode=lambda sample: sample["__key__"]))
    assert sorted(keys) == sorted(corpus.index("train").keys)


def test_a_stranger_s_pickle_is_never_opened(tmp_path):
    """A member that webdataset's own decoder would execute is refused by name."""
    from stbuild.corpus.tar import END, pack_sample

    corpus = write_corpus(tmp_path / "c", n_patches=5, n_slices=1)
    path = corpus.shard_file(corpus.document.shards_of("train")[0])
    extra = pack_sample("toy0_w000000", {"json": b"{}", "pyd": b"cos\nsystem\n(S'touch x'\ntR."})
    size = path.stat().st_size
    path.write_bytes((extra + END).ljust(size, b"\0"))
    with pytest.raises(IntegrityError, match=r"members missing|does not know"):
        list(open_webdataset(corpus.root))


def test_paths_in_which_webdataset_sees_more(tmp_path):
    corpus = write_corpus(tmp_path / "c", n_patches=2)
    shutil.copytree(corpus.root, tmp_path / "{a,b}")
    with pytest.raises(BadInputError, match="expands or executes"):
        open_webdataset(tmp_path / "{a,b}")


def test_a_split_without_patches(tmp_path):
    corpus = write_corpus(tmp_path / "c", n_patches=2)
    with pytest.raises(BadInputError, match="holds 0 patches; it has train"):
        open_webdataset(corpus.root, "validation")


def test_the_snippet_of_the_readme(tmp_path):
    """What README.md tells people without our loader to do, word for word."""
    text = (ROOT / "README.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "WebDataset" in c]
    corpus = write_corpus(tmp_path / "train", name="corpus", n_patches=8)
    ask = "print(*(patch.meta.key for patch in dataset))\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + ask], cwd=tmp_path, capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = corpus.index("train")
    assert done.stdout.split() == list(index.keys)[: int((index.shard == 0).sum())]
