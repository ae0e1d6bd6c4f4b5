from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from stbuild.corpus.split_documents import SplitAssignment
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.embed.splits import read_split, require_usable
from sttrain.errors import BadInputError, BadUsageError, IntegrityError
from tests.sttrain.judged import make_document, make_set, make_split, make_whole


@pytest.mark.parametrize("name", ["paper20@1", "block20@1"])
def test_reads_the_splits_of_a_corpus(eval_corpus, name):
    data = read_evaluation_set(eval_corpus)
    split = read_split(eval_corpus, data, name, 4)
    assert [fold.seed for fold in split.folds] == [0, 1, 2, 3]
    assert split.slugs == ("alpha", "beta", "gamma")
    assert split.labels.size == sum(w.meta.n_spots for w in data.slices.values())
    for fold in split.folds:
        assert not np.any(fold.train & fold.test)
        assert bool(np.all(split.labels[fold.train | fold.test] >= 0))
    assert read_split(eval_corpus, data, name, None).folds[:4] != ()


def test_an_unknown_split_is_answered_with_the_nearest(eval_corpus):
    data = read_evaluation_set(eval_corpus)
    with pytest.raises(BadUsageError, match="did you mean 'paper20@1'"):
        read_split(eval_corpus, data, "paper2@1", None)


def test_more_seeds_than_the_split_holds_are_refused(eval_corpus):
    data = read_evaluation_set(eval_corpus)
    with pytest.raises(BadUsageError, match="11 seeds asked for, the split holds 10"):
        read_split(eval_corpus, data, "paper20@1", 11)


def test_spots_are_numbered_over_the_slices_in_order_of_their_slugs():
    data = make_set(make_whole("two", side=6), make_whole("one", side=7))
    split = make_split(data)
    assert split.slugs == ("one", "two")
    assert split.offsets == (0, 49, 85)
    assert split.spots_of("two") == np.s_[49:85]
    np.testing.assert_array_equal(split.labels[49:], data.slices["two"].labels)


def test_rare_classes_do_not_train_but_are_scored():
    whole = make_whole()
    whole.labels[whole.labels == 2] = 1
    whole.labels[:4] = 2
    data = make_set(whole)
    codes = "T" * 100 + "E" * 44
    document = make_document(
        data, assignments=(SplitAssignment(seed=0, slices={"one": "TTEE" + codes[4:]}),)
    )
    split = make_split(data, document)
    assert split.rare == (2,)
    assert not {0, 1} & set(split.training_spots(split.folds[0]).tolist())
    assert bool(split.folds[0].test[2:4].all())


def test_other_barcodes_are_an_integrity_error():
    data = make_set()
    document = make_document(data, barcodes={"one": tuple(reversed(data.barcodes("one")))})
    with pytest.raises(IntegrityError, match="not those of the whole slice"):
        make_split(data, document)


def test_unlabelled_spots_may_not_take_part():
    data = make_set()
    document = make_document(data)
    data.slices["one"].labels[3] = -1
    with pytest.raises(IntegrityError, match="seed 0: unlabelled spots take part"):
        make_split(data, document)


def test_every_useless_seed_is_reported_at_once():
    data = make_set()
    size = data.slices["one"].labels.size
    columns = data.slices["one"].cols
    one_class = "".join("T" if c < 4 else "E" for c in columns)
    document = make_document(
        data,
        assignments=(
            SplitAssignment(seed=0, slices={"one": "T" * size}),
            SplitAssignment(seed=1, slices={"one": one_class}),
            SplitAssignment(seed=2, slices={"one": "T" + "E" * (size - 1)}),
            SplitAssignment(seed=3, slices={"one": "TT" + "E" * (size - 2)}),
        ),
    )
    with pytest.raises(BadInputError) as caught:
        require_usable([make_split(data, document)], least=10)
    assert [problem.code for problem in caught.value.problems] == ["V07", "V09", "V12", "V12"]
    text = str(caught.value)
    assert "no spot to judge (seeds 0)" in text
    assert "fewer than two classes of 5 or more spots to train on (seeds 1, 2, 3)" in text
    assert "1 training spots, at least 10 are needed (seeds 2)" in text


def test_a_usable_split_passes():
    require_usable([make_split(make_set())], least=10)


def test_a_held_out_group_is_judged_where_its_classes_are_known():
    data = make_set(make_whole("one"), make_whole("two", side=6))
    labels = data.slices["one"].labels
    tested = "".join("x" if label == 2 else "E" for label in labels)
    document = make_document(
        data,
        assignments=(
            SplitAssignment(seed=0, held_out="D1", slices={"one": tested, "two": "T" * 36}),
        ),
        undefined={"three": "its donor is unknown"},
    )
    split = make_split(data, document)
    (fold,) = split.folds
    assert fold.held_out == "D1"
    assert split.slugs == ("one", "two")
    assert not fold.test[:144][labels == 2].any()
    assert bool(fold.test[:144][labels != 2].all())
    assert bool(fold.train[144:].all())


def test_groups_without_a_known_class_are_not_held_out_and_are_named():
    data = make_set(make_whole("one"), make_whole("two", side=6))
    assignments = [
        SplitAssignment(seed=0, held_out="D1", slices={"one": "E" * 144, "two": "T" * 36}),
        SplitAssignment(seed=1, held_out="D2", slices={"one": "T" * 144, "two": "x" * 36}),
    ]
    split = make_split(data, make_document(data, assignments=tuple(assignments)))
    assert [fold.held_out for fold in split.folds] == ["D1"]
    assert split.unknown_groups == ("D2",)
    require_usable([split], least=10)
    none = make_split(data, make_document(data, assignments=tuple(assignments[1:])))
    with pytest.raises(BadInputError, match=r"V07.*no spot to judge"):
        require_usable([none], least=10)


@pytest.mark.parametrize("n_seeds", [1, 1000])
def test_groups_that_are_held_out_are_all_judged_whatever_the_seeds(eval_corpus, n_seeds):
    data = make_set(make_whole("one"), make_whole("two"))
    drawn = make_document(data, n_seeds=2).assignments
    groups = tuple(a.model_copy(update={"held_out": f"donor{a.seed}"}) for a in drawn)
    corpus = MagicMock(wraps=eval_corpus)
    corpus.evaluation_splits.return_value = ("donor-out@1",)
    corpus.evaluation_split.return_value = make_document(data, assignments=groups)
    corpus.document.files = [SimpleNamespace(path="splits/donor-out@1.json", sha256="d" * 64)]
    folds = read_split(corpus, data, "donor-out@1", n_seeds).folds
    assert [fold.held_out for fold in folds] == ["donor0", "donor1"]
