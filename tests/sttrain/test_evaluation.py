import shutil

import numpy as np
import pytest

from stbuild.corpus.reader import open_corpus
from sttrain.embed.evaluation import drawn_genes, read_evaluation_set, read_patch, require_sound
from sttrain.errors import BadInputError, IntegrityError
from tests.sttrain.judged import make_whole


def test_reads_every_slice_with_its_labels(eval_corpus):
    data = read_evaluation_set(eval_corpus)
    assert list(data.slices) == ["alpha", "beta", "gamma"]
    assert data.corpus_id == eval_corpus.document.corpus_id
    for slug, whole in data.slices.items():
        assert len(data.barcodes(slug)) == whole.meta.n_spots
        assert set(data.label_names(slug)) <= {*data.labels, None}


def test_genes_are_those_of_all_patches_and_of_every_slice(eval_corpus):
    seen = set()
    index = eval_corpus.index("test")
    for i in range(len(index)):
        seen |= set(read_patch(eval_corpus, "test", index, i).genes.tolist())
    drawn = drawn_genes(eval_corpus)
    assert set(drawn.tolist()) == seen - {-1}
    data = read_evaluation_set(eval_corpus)
    expected = drawn
    for whole in data.slices.values():
        expected = np.intersect1d(expected, whole.genes)
    np.testing.assert_array_equal(data.genes, expected)


def test_refuses_a_training_corpus(train_corpus):
    with pytest.raises(BadInputError, match="a training corpus; an evaluation corpus was expected"):
        read_evaluation_set(train_corpus)


def test_a_flipped_byte_of_a_patch_is_found(eval_corpus, tmp_path):
    shutil.copytree(eval_corpus.root, tmp_path / "copy")
    corpus = open_corpus(tmp_path / "copy")
    index = corpus.index("test")
    path = corpus.root / corpus.document.shards_of("test")[0].path
    raw = bytearray(path.read_bytes())
    raw[int(index.offset[0]) + 700] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="SHA-256"):
        read_patch(corpus, "test", index, 0)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("totals", 0, "library size 0"),
        ("xy", np.nan, "not finite"),
        ("labels", 3, "outside the 3 names"),
        ("labels", -2, "outside the 3 names"),
        ("barcodes", b"\xff\xfe", "not UTF-8"),
        ("barcodes", b"one-0001", "stands twice"),
    ],
)
def test_slices_whose_values_make_no_sense_are_refused(member, value, words):
    whole = make_whole()
    require_sound(whole, 3)
    getattr(whole, member)[0] = value
    with pytest.raises(IntegrityError, match=words):
        require_sound(whole, 3)
