"""Repair: what is damaged is written again, the same bytes; nothing else is touched."""

import json
import shutil

import pytest

from stbuild.build.repair import repair_corpus
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.errors import BadInputError, ConflictError, IntegrityError
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


def link(path):
    """Leave a link to a file or folder that is moved out of the corpus."""
    root = next(parent for parent in path.parents if (parent / "corpus.json").is_file())
    outside = path.rename(root.parent / f"outside-{path.name}")
    path.symlink_to(outside)


DAMAGES = {
    "flipped_shard": lambda root, shards: flip(root / shards[1]),
    "missing_shard": lambda root, shards: (root / shards[0]).unlink(),
    "cut_shard": lambda root, shards: (root / shards[2]).write_bytes(b"x" * 512),
    "flipped_index": lambda root, _: flip(root / "index" / "train.parquet"),
    "missing_genes": lambda root, _: (root / "genes.parquet").unlink(),
    "missing_lock": lambda root, _: (root / LOCK_JSON).unlink(),
    "checksums": lambda root, _: flip(root / "SHA256SUMS", 3),
    "missing_checksums": lambda root, _: (root / "SHA256SUMS").unlink(),
    "cut_checksums": lambda root, _: (root / "SHA256SUMS").write_bytes(b""),
    "checksums_and_more": lambda root, shards: [
        flip(root / "SHA256SUMS", -10),
        (root / shards[0]).unlink(),
    ],
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
    catalogue = json.loads((other / "grids.json").read_text())
    gone = catalogue["grids"].pop()
    shutil.rmtree(other / f"{gone['slug']}.zarr")
    (other / "grids.json").write_text(json.dumps(catalogue))
    flip(copy / train_corpus.document.shards[0].path)
    damaged = tree_digests(copy)
    with pytest.raises(ConflictError, match="not the grids that this corpus was built from"):
        repair_corpus(copy, other, run_loop)
    assert tree_digests(copy) == damaged


def edit(root, change):
    """Rewrite ``corpus.json`` in its own form."""
    path = root / "corpus.json"
    document = json.loads(path.read_bytes())
    change(document)
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def other_donor(document):
    document["slices"][0]["donor"] = "D9"


EDITS = {
    "donor": other_donor,
    "spots": lambda document: document["slices"][0].update(n_spots=7),
    "seed": lambda document: document["config"].update(seed=7),
    "digest_of_a_shard": lambda document: document["shards"][0].update(sha256="0" * 64),
    "content_of_a_shard": lambda document: document["shards"][0].update(content="0" * 64),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edited_document_is_refused_and_its_witness_stays(change, copy, grids):
    edit(copy, change)
    damaged = tree_digests(copy)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"P20.*'corpus\.json'.*the one in SHA256SUMS"):
            repair_corpus(copy, grids, run_loop)
        assert tree_digests(copy) == damaged


@pytest.mark.parametrize("gone", ["SHA256SUMS", LOCK_JSON])
def test_an_edited_document_is_refused_with_one_witness_left(gone, copy, grids):
    edit(copy, other_donor)
    (copy / gone).unlink()
    damaged = tree_digests(copy)
    with pytest.raises(IntegrityError, match="P20"):
        repair_corpus(copy, grids, run_loop)
    assert tree_digests(copy) == damaged


def test_checksums_are_never_written_over_what_disagrees(copy, grids):
    edit(copy, other_donor)
    for name in ("SHA256SUMS", LOCK_JSON):
        (copy / name).unlink()
    with pytest.raises(IntegrityError, match=r"its rows do not follow from corpus\.json"):
        repair_corpus(copy, grids, run_loop)
    assert not (copy / "SHA256SUMS").exists()


def test_a_fingerprint_is_believed_only_with_the_grids(copy, grids):
    edit(copy, lambda document: document.update(fingerprint="0" * 64))
    damaged = tree_digests(copy)
    with pytest.raises(ConflictError, match="not the grids"):
        repair_corpus(copy, grids, run_loop)
    assert tree_digests(copy) == damaged


def test_a_document_in_another_form_is_refused(copy, grids):
    path = copy / "corpus.json"
    old = sha256_file(path)
    path.write_bytes(path.read_bytes() + b"\n")
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256_file(path)))
    with pytest.raises(IntegrityError, match=r"not the form that a corpus\.json is written in"):
        repair_corpus(copy, grids, run_loop)


@pytest.mark.parametrize("damage", ["nothing", "checksums", "missing_shard"])
def test_a_folder_without_grids_is_refused_whatever_is_damaged(damage, copy, train_corpus):
    DAMAGES[damage](copy, [shard.path for shard in train_corpus.document.shards])
    damaged = tree_digests(copy)
    for folder in (copy, copy / "nope"):
        with pytest.raises(BadInputError, match=r"G02.*no finished grids stand here"):
            repair_corpus(copy, folder, run_loop)
    assert tree_digests(copy) == damaged


def test_a_linked_folder_is_refused_by_name(copy, grids, train_corpus):
    link(copy / "data")
    (copy / train_corpus.document.shards[0].path).unlink()
    outside = tree_digests(copy.parent)
    with pytest.raises(IntegrityError, match="a link, not a folder of the corpus") as caught:
        repair_corpus(copy, grids, run_loop)
    assert [problem.where for problem in caught.value.problems] == [str(copy / "data")]
    assert tree_digests(copy.parent) == outside


def test_a_linked_file_is_replaced(copy, grids, train_corpus):
    shard = train_corpus.document.shards[0].path
    for path in (shard, "SHA256SUMS"):
        link(copy / path)
        report = repair_corpus(copy, grids, run_loop)
        assert [*report.shards, *report.tables] == [path]
        assert not (copy / path).is_symlink()
    assert tree_digests(copy) == tree_digests(train_corpus.root)
