"""How predictions agree with labels; the rules for absent classes are fixed here.

A class counts where it stands among the true labels that are scored. One that is never predicted
scores 0; a predicted class that no scored spot has only costs the classes it was taken from. Where
all scored spots have one class the adjusted Rand index is undefined (it would be 1 or 0 by whether
the predictions are constant) and is none, which averages leave out.
"""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Agreement of N predictions with N labels."""

    accuracy: float
    ari_pred: float | None
    """Adjusted Rand index of predicted and true classes: a classifier's, not a clustering's. None
    where the labels are of one class."""
    macro_f1: float
    balanced_accuracy: float
    """Mean recall over the classes that occur."""


METRICS: Final = tuple(field.name for field in fields(Scores))


def score_predictions(truth: NDArray[np.int16], predicted: NDArray[np.int16]) -> Scores:
    """Score predictions.

    Parameters
    ----------
    truth
        (N,) label codes of the scored spots, N of at least 1.
    predicted
        (N,) predicted codes.

    Raises
    ------
    ValueError
        Nothing to score, arrays of two lengths, or an unlabelled spot.
    """
    from sklearn.metrics import adjusted_rand_score, f1_score, recall_score

    if not truth.size or truth.shape != predicted.shape or int(truth.min()) < 0:
        msg = f"{truth.shape} labels and {predicted.shape} predictions, labelled spots expected"
        raise ValueError(msg)
    present = np.unique(truth)
    ari = float(adjusted_rand_score(truth, predicted)) if present.size > 1 else None
    options = {"labels": present, "average": "macro", "zero_division": 0.0}
    return Scores(
        accuracy=float(np.mean(truth == predicted)),
        ari_pred=ari,
        macro_f1=float(f1_score(truth, predicted, **options)),
        balanced_accuracy=float(recall_score(truth, predicted, **options)),
    )
