"""Corpora of format version 1 are read for good, and from the format's description alone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from stbuild.corpus.reader import open_corpus
from stbuild.corpus.samples import decode_patch
from stbuild.corpus.tar import unpack_sample
from stbuild.verify import verify_corpus
from tests.contract import spec_reader
from tests.trees import tree_digests

ARCHIVE = Path(__file__).parents[1] / "archive" / "v1"
TREES = {
    "train": "421ca48206743e3759921d0078b42c59e36ba1273fddb53fcf824f04ad0d6b2e",
    "eval": "b911a889a617ceb1e623e65c377a3e135a46de75d8ccbb5868f112efecd52c29",
}
CONTENTS = {
    "train": "e9f37fa4556d1a82e70c96aa4d9ad1b93325f6ea4245bdabf23a499b528933e9",
    "eval": "afcb095f9c905417a6e4ed3c30ec53be39db40a6c66da98e0fbf56e4c3b485ab",
}


def read_with_ours(root):
    corpus = open_corpus(root)
    found = {}
    for split in corpus.document.splits():
        index, shards = corpus.index(split), corpus.document.shards_of(split)
        for i, key in enumerate(index.keys):
            raw = corpus.read_sample(shards[int(index.shard[i])], index, i)
            patch = decode_patch(unpack_sample(raw, key)[1], key)
            found[key] = (patch.meta.model_dump(mode="json"), patch.arrays())
    for split in corpus.document.splits("slice"):
        for whole in corpus.whole_slices(split):
            found[whole.meta.key] = (whole.meta.model_dump(mode="json"), whole.arrays())
    return found


@pytest.mark.parametrize("name", TREES)
def test_the_archive_is_as_it_was_written(name):
    listed = "".join(f"{d}  {p}\n" for p, d in sorted(tree_digests(ARCHIVE / name).items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == TREES[name]
    assert verify_corpus(ARCHIVE / name).problems == ()


@pytest.mark.parametrize("name", TREES)
def test_every_array_is_read_as_it_was(name):
    digest = hashlib.sha256()
    for key, (meta, arrays) in sorted(read_with_ours(ARCHIVE / name).items()):
        digest.update(key.encode() + spec_reader.content(arrays, meta))
    assert digest.hexdigest() == CONTENTS[name]


@pytest.mark.parametrize("name", TREES)
def test_a_reader_written_from_the_description_reads_the_same(name):
    ours = read_with_ours(ARCHIVE / name)
    theirs = {key: (meta, arrays) for key, meta, arrays in spec_reader.read_corpus(ARCHIVE / name)}
    assert sorted(theirs) == sorted(ours)
    for key, (meta, arrays) in theirs.items():
        assert meta == ours[key][0]
        assert sorted(arrays) == sorted(ours[key][1])
        for member, values in arrays.items():
            other = ours[key][1][member]
            assert values.dtype == other.dtype
            assert np.array_equal(values, other)


def test_that_reader_is_short_and_needs_nothing_of_ours():
    text = Path(spec_reader.__file__).read_text("utf-8")
    code = text.split('"""', 2)[2].strip().splitlines()
    assert len(code) <= 60
    assert "stbuild" not in text.replace("manifests", "")


def test_the_archive_shows_what_the_format_has():
    train, evaluation = (open_corpus(ARCHIVE / name) for name in TREES)
    assert {shard.generation for shard in train.document.shards} == {0, 1}
    assert {shard.licence for shard in train.document.shards} == {None, "mit"}
    assert train.genes != sorted(train.genes)
    wholes = list(evaluation.whole_slices("test"))
    assert any(whole.members is not None for whole in wholes)
    assert evaluation.document.config.codec == "none"
    assert len(evaluation.evaluation_splits()) == 7
