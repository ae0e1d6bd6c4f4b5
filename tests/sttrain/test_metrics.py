import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, f1_score

from sttrain.judge.metrics import score_predictions


def codes(*values):
    return np.asarray(values, np.int16)


def test_perfect_predictions_score_one():
    truth = codes(0, 0, 1, 1, 2, 2)
    scores = score_predictions(truth, truth)
    assert (scores.accuracy, scores.ari_pred, scores.macro_f1, scores.balanced_accuracy) == (
        1,
        1,
        1,
        1,
    )


def test_a_class_that_is_never_predicted_scores_zero():
    scores = score_predictions(codes(0, 0, 0, 1), codes(0, 0, 0, 0))
    assert scores.accuracy == 0.75
    assert scores.ari_pred == 0
    assert scores.balanced_accuracy == 0.5
    assert scores.macro_f1 == pytest.approx((6 / 7 + 0) / 2)


def test_a_predicted_class_outside_the_judged_spots_adds_no_class():
    scores = score_predictions(codes(0, 0, 1, 1), codes(0, 5, 1, 1))
    assert scores.balanced_accuracy == 0.75
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=2, max_size=60))
def test_scores_equal_those_of_scikit_learn(pairs):
    truth, predicted = (codes(*values) for values in zip(*pairs, strict=True))
    scores = score_predictions(truth, predicted)
    if len(set(truth.tolist())) > 1:
        assert scores.ari_pred == pytest.approx(adjusted_rand_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes outside the truth
        expected = balanced_accuracy_score(truth, predicted)
    assert scores.balanced_accuracy == pytest.approx(expected)
    f1 = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0.0)
    assert scores.macro_f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [(codes(), codes()), (codes(0, 1), codes(0)), (codes(0, -1), codes(0, 0))],
    ids=["nothing", "two_lengths", "unlabelled_spot"],
)
def test_nothing_meaningless_is_scored(truth, predicted):
    with pytest.raises(ValueError, match="labelled spots expected"):
        score_predictions(truth, predicted)


@pytest.mark.parametrize("predicted", [codes(1, 1, 1), codes(1, 2, 1)], ids=["constant", "mixed"])
def test_agreement_with_labels_of_one_class_is_undefined(predicted):
    scores = score_predictions(codes(1, 1, 1), predicted)
    assert scores.ari_pred is None
    assert scores.balanced_accuracy == scores.accuracy
