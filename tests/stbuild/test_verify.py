"""Verify names every damage: flips, truncation, missing, extra, swapped, edited."""

import json
import shutil

import numpy as np
import pytest

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.errors import IntegrityError
from stbuild.verify import verify_corpus
from stbuild.verify.comparison import compare_corpora
from tests.trees import tree_digests


@pytest.fixture
def copy(eval_corpus, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(eval_corpus.root, root)
    return root


def named(root, quick=False):
    return {str(problem.where) for problem in verify_corpus(root, quick=quick).problems}


def test_a_good_corpus_has_no_problem(train_corpus, eval_corpus):
    for corpus in (train_corpus, eval_corpus):
        report = verify_corpus(corpus.root)
        assert report.problems == ()
        assert report.n_files == len(tree_digests(corpus.root))
        assert report.n_samples == sum(shard.n_samples for shard in corpus.document.shards)


def test_a_flipped_bit_in_any_file_is_named(copy):
    rng = np.random.default_rng(1)
    paths = [path for path in sorted(tree_digests(copy)) if path != "corpus.json"]
    for path in paths:
        file = copy / path
        good = file.read_bytes()
        for _ in range(3):
            raw = bytearray(good)
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
            file.write_bytes(raw)
            assert str(file) in named(copy, quick=True), path
        file.write_bytes(good)
    assert named(copy) == set()


def test_a_damaged_sample_is_named_with_its_key(copy, eval_corpus):
    shard = eval_corpus.document.shards_of("test")[0]
    index = eval_corpus.index("test")
    file = copy / shard.path
    raw = bytearray(file.read_bytes())
    raw[int(index.offset[3]) + 600] ^= 4
    file.write_bytes(raw)
    assert f"{file}:{index.keys[3]}" in named(copy)


@pytest.mark.parametrize("cut", [1, 512, 1024, 5000])
def test_a_truncated_shard_is_named(copy, eval_corpus, cut):
    file = copy / eval_corpus.document.shards[0].path
    file.write_bytes(file.read_bytes()[:-cut])
    assert str(file) in named(copy)


def test_missing_extra_swapped_and_linked_files_are_named(copy, eval_corpus):
    first, *_, last = [copy / shard.path for shard in eval_corpus.document.shards]
    (copy / "data" / "stray.tar").write_bytes(b"")
    assert named(copy) == {str(copy / "data" / "stray.tar")}
    (copy / "data" / "stray.tar").unlink()
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    assert str(first) in named(copy)
    first.unlink()
    assert str(first) in named(copy, quick=True)
    outside = copy.parent / "outside.tar"
    outside.write_bytes(content)
    first.symlink_to(outside)
    assert str(first) in named(copy, quick=True)


def test_an_edited_document_is_found_even_with_new_checksums(copy):
    path = copy / "corpus.json"
    document = json.loads(path.read_bytes())
    document["config"]["seed"] = 7
    raw = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"
    old = sha256_bytes(path.read_bytes())
    path.write_bytes(raw)
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256_bytes(raw)))
    assert str(path) in named(copy)


def test_a_comparison_names_files_that_are_missing_or_cut(copy, eval_corpus):
    first, second = [copy / shard.path for shard in eval_corpus.document.shards[:2]]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    for pair in ((copy, eval_corpus.root), (eval_corpus.root, copy)):
        with pytest.raises(IntegrityError) as caught:
            compare_corpora(*pair)
        assert [p.where for p in caught.value.problems] == sorted([str(first), str(second)])


def test_a_comparison_does_not_speak_of_bytes_that_it_did_not_read(copy, eval_corpus):
    file = copy / eval_corpus.document.shards[0].path
    raw = bytearray(file.read_bytes())
    raw[700] ^= 1
    file.write_bytes(raw)
    (line,) = compare_corpora(copy, eval_corpus.root).lines()
    assert line.startswith("the same by their documents; files were not read")


def test_a_linked_folder_is_called_that_by_all(copy, eval_corpus):
    (copy / "data").rename(copy.parent / "data")
    (copy / "data").symlink_to(copy.parent / "data")
    shards = [str(copy / shard.path) for shard in eval_corpus.document.shards]
    with pytest.raises(IntegrityError) as caught:
        compare_corpora(copy, eval_corpus.root)
    for problems in (caught.value.problems, verify_corpus(copy, quick=True).problems):
        assert [problem.where for problem in problems] == sorted(shards)
        assert {problem.what for problem in problems} == {"'data' on its way is a link"}


def test_a_linked_file_is_called_that(copy, eval_corpus):
    file = copy / eval_corpus.document.shards[0].path
    file.rename(copy.parent / "outside.tar")
    file.symlink_to(copy.parent / "outside.tar")
    (problem,) = verify_corpus(copy, quick=True).problems
    assert problem.what == "a link, not a regular file"
