"""Repair: what is damaged is written again, the same bytes; nothing else is touched."""

import shutil

import pytest

from stbuild.build.repair import repair_corpus
from stbuild.corpus.errors import ConflictError
from stbuild.corpus.names import LOCK_JSON
from stbuild.tasks.pipeline import run_loop
from tests.trees import tree_digests


@pytest.fixture
def copy(train_corpus, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(train_corpus.root, root)
    return root


def flip(path, place=700):
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 4
    path.write_bytes(raw)


DAMAGES = {
    "flipped_shard": lambda root, shards: flip(root / shards[1]),
    "missing_shard": lambda root, shards: (root / shards[0]).unlink(),
    "cut_shard": lambda root, shards: (root / shards[2]).write_bytes(b"x" * 512),
    "flipped_index": lambda root, _: flip(root / "index" / "train.parquet"),
    "missing_genes": lambda root, _: (root / "genes.parquet").unlink(),
    "missing_lock": lambda root, _: (root / LOCK_JSON).unlink(),
    "checksums": lambda root, _: flip(root / "SHA256SUMS", 3),
    "nothing": lambda *_: None,
    "several": lambda root, shards: [
        flip(root / shards[0]),
        (root / shards[-1]).unlink(),
        flip(root / LOCK_JSON),
        (root / "slices.parquet").unlink(),
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_corpus_becomes_what_it_was(damage, copy, grids, train_corpus):
    shards = [shard.path for shard in train_corpus.document.shards]
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    DAMAGES[damage](copy, shards)
    bad = {
        path
        for path, digest in tree_digests(train_corpus.root).items()
        if tree_digests(copy).get(path) != digest
    }
    report = repair_corpus(copy, grids, run_loop)
    assert set(report.shards) | set(report.tables) == bad
    assert tree_digests(copy) == tree_digests(train_corpus.root)
    assert not (copy / ".work").exists()
    for path, time in before.items():
        if path.relative_to(copy).as_posix() not in bad:
            assert path.stat().st_mtime_ns == time


def test_other_grids_are_refused_and_nothing_changes(copy, tmp_path, grids, train_corpus):
    other = tmp_path / "other"
    shutil.copytree(grids, other)
    import json

    catalogue = json.loads((other / "grids.json").read_text())
    gone = catalogue["grids"].pop()
    shutil.rmtree(other / f"{gone['slug']}.zarr")
    (other / "grids.json").write_text(json.dumps(catalogue))
    flip(copy / train_corpus.document.shards[0].path)
    damaged = tree_digests(copy)
    with pytest.raises(ConflictError, match="not the grids that this corpus was built from"):
        repair_corpus(copy, other, run_loop)
    assert tree_digests(copy) == damaged
