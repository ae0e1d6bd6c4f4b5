"""A release loads in every tool that its card names, by the very code of the card."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_patch
from stbuild.corpus.tar import unpack_sample
from stbuild.publish.options import PublishOptions
from stbuild.publish.release import publish_release

ARCHIVE = Path(__file__).parents[1] / "archive" / "v1"
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
TOOLS = ["tarfile", "webdataset", "datasets", "mlcroissant", "ours"]
SAVE = "\nnp.savez(OUT, key=meta['key'], counts=counts, genes=genes, totals=totals)\n"


@pytest.fixture(scope="module", params=["train", "eval"])
def release(request, tmp_path_factory):
    """A release of a corpus in zstd, and of one without a codec and with more members."""
    out = tmp_path_factory.mktemp("loads") / "release"
    options = PublishOptions(stated=("unknown",))
    publish_release(ARCHIVE / request.param, out, options, datetime(2026, 1, 1, tzinfo=UTC))
    return out


def expected(corpus: Corpus, key: str) -> dict[str, np.ndarray]:
    for split in corpus.document.splits():
        index, shards = corpus.index(split), corpus.document.shards_of(split)
        if key in list(index.keys):
            i = list(index.keys).index(key)
            raw = corpus.read_sample(shards[int(index.shard[i])], index, i)
            return decode_patch(unpack_sample(raw, key)[1], key).arrays()
    pytest.fail(f"no sample {key}")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_card_s_code_gives_the_same_arrays(release, tool, tmp_path):
    if tool in ("datasets", "mlcroissant"):
        pytest.importorskip(tool)
    start, *ways = BLOCK.findall((release / "README.md").read_text())[: len(TOOLS) + 1]
    out = tmp_path / "found.npz"
    code = f"OUT = {str(out)!r}\n{start}{ways[TOOLS.index(tool)]}{SAVE}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
                   "HF_HOME": str(tmp_path / "hf"), "WDS_SECURE": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=release, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out, allow_pickle=False) as found:  # noqa: TID251 - written above
        arrays = expected(open_corpus(release), str(found["key"]))
        for name in ("counts", "genes", "totals"):
            assert np.array_equal(found[name], arrays[name]), name


def test_datasets_reads_a_whole_split_offline(release, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    corpus = open_corpus(release)
    split = corpus.document.splits()[0]
    files = {split: [str(release / shard.path) for shard in corpus.document.shards_of(split)]}
    found = datasets.load_dataset("webdataset", data_files=files, split=split,
                                  cache_dir=str(tmp_path))  # fmt: skip
    assert sorted(found["__key__"]) == sorted(corpus.index(split).keys)
