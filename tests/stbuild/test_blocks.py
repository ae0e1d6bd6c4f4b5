"""A corpus whose splits are spatial blocks of every slice, with a buffer between them."""

import json

import numpy as np
import pytest

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.build.rebuild import rebuild_corpus
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig, read_config
from stbuild.corpus.errors import BadInputError, BadUsageError
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.splits.block_windows import plan_blocks, share_windows
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from tests.slices import Spec, write_slice
from tests.trees import tree_digests

BLOCKS = ShardConfig(
    name="parted", window=6, genes=16, n_per_slice=20, samples_per_shard=8, assign="block",
    test_share=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    for i in (1, 2):
        spec = Spec(seed=i, kind="square", rows=44, cols=40, n_genes=50)
        write_slice(root / f"s{i}.h5ad", spec)
    manifest = read_inputs([str(root / f"s{i}.h5ad") for i in (1, 2)])
    compact(manifest, GridConfig(pitch_um=100), root / "grids", run_loop)
    build_corpus(gather_inputs(root / "grids", BLOCKS, None), root / "corpus", run_loop)
    return root


def test_windows_of_two_splits_lie_a_window_apart(lab):
    corpus = open_corpus(lab / "corpus")
    assert corpus.document.splits() == ("test", "train")
    assert {entry.split for entry in corpus.document.slices} == {"blocks"}
    for slug in ("s1", "s2"):
        places = {}
        for split in ("train", "test"):
            index = corpus.index(split)
            own = np.asarray([s == slug for s in index.slices])
            places[split] = np.stack([index.row[own], index.col[own]], axis=1)
        assert len(places["train"]) == 14
        assert len(places["test"]) == 6
        apart = np.abs(places["train"][:, None] - places["test"][None]).max(axis=2)
        assert apart.min() >= 2 * BLOCKS.window  # a window, and a buffer as wide as a window
    assert not verify_corpus(lab / "corpus", quick=False).problems


def test_the_certificate_names_what_was_compared(lab):
    report = json.loads((lab / "corpus" / "splits" / "leakage.json").read_text())
    assert report["windows"] == 40
    assert report["findings"] == []


def test_it_is_rebuilt_byte_for_byte(lab, tmp_path):
    rebuild_corpus(lab / "corpus", lab, tmp_path / "again", tmp_path / "g", run_loop)
    assert tree_digests(tmp_path / "again") == tree_digests(lab / "corpus")


def test_a_slice_too_small_for_a_buffer_is_refused_by_name(tmp_path):
    write_slice(tmp_path / "tiny.h5ad", Spec(kind="square", rows=16, cols=14, n_genes=30))
    write_slice(tmp_path / "mini.h5ad", Spec(kind="square", rows=15, cols=14, n_genes=30, seed=4))
    manifest = read_inputs([str(tmp_path / f"{name}.h5ad") for name in ("tiny", "mini")])
    compact(manifest, GridConfig(pitch_um=100), tmp_path / "grids", run_loop)
    config = BLOCKS.model_copy(update={"window": 12})
    with pytest.raises(BadInputError) as caught:
        build_corpus(gather_inputs(tmp_path / "grids", config, None), tmp_path / "c", run_loop)
    named = [problem.subject for problem in caught.value.problems]
    assert named == ["slice 'mini'", "slice 'tiny'"]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"whole_slices": True}, "whole slice"), ({"n_per_slice": 1}, "without a patch"),
     ({"cover": 4, "n_per_slice": None}, "whole slice")],
    ids=["whole", "few", "cover"],
)  # fmt: skip
def test_what_cannot_be_parted_is_refused(change, word):
    with pytest.raises(BadUsageError, match=word):
        read_config(ShardConfig, BLOCKS.model_dump() | change, "x")


def test_windows_are_shared_by_largest_remainder():
    assert share_windows(10, {"train": 0.8, "test": 0.2}) == {"test": 3, "train": 7}
    assert share_windows(3, {"train": 0.8, "val": 0.1, "test": 0.1}) == {
        "test": 1, "train": 1, "val": 1,
    }  # fmt: skip
    assert sum(share_windows(97, {"train": 0.7, "val": 0.1, "test": 0.2}).values()) == 97


def test_every_window_holds_what_its_split_can_offer():
    occupied = np.ones((60, 50), bool)
    occupied[20:30, 10:25] = False
    windows = plan_blocks(occupied, "d", BLOCKS, "x")
    assert [window.number for window in windows] == list(range(20))
    assert windows == plan_blocks(occupied, "d", BLOCKS, "x")
    assert all(window.observed >= BLOCKS.min_fill * 36 for window in windows)
