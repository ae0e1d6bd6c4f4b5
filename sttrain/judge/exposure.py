"""Whether a method's features were fitted on spots that are judged, whatever the split says.

A split that holds a donor out is not transductive by itself; what is judged under it may be.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from sttrain.embed.evaluation import EvaluationSet
from sttrain.judge.baselines import Control
from sttrain.judge.candidates import GivenVectors
from sttrain.judge.methods import Method, Reduced, find_method, is_taken

COMPONENTS: Final = "components"
"""Principal components, or the scales of blocks, are fitted on all spots."""
TRAINING: Final = "training"
"""The model was trained on the judged slices."""
UNKNOWN: Final = "unknown"
"""Nothing says which slices the model was trained on."""
_SEPARATOR: Final = "; "


class SeenRow(Protocol):
    """A row that may say what its features were fitted on."""

    @property
    def method(self) -> str:
        """Name of the method."""
        ...

    @property
    def seen(self) -> str | None:
        """What `find_exposure` returned; none in rows of older versions."""
        ...


def find_exposure(method: Method, data: EvaluationSet) -> str:
    """Return how the judged spots took part in making the features.

    Parameters
    ----------
    method
        What is judged.
    data
        The corpus that it is judged on.

    Returns
    -------
    str
        `COMPONENTS`, `TRAINING` and `UNKNOWN`, separated by semicolons; empty for none of them.
    """
    return _SEPARATOR.join(sorted(_exposures(method, data)))


def _exposures(method: Method, data: EvaluationSet) -> set[str]:
    if isinstance(method, Reduced):
        return {COMPONENTS} | _exposures(method.method, data)
    if isinstance(method, Control):
        return _of_control(method)
    if isinstance(method, GivenVectors):
        return _of_vectors(method.vectors.provenance, data)
    return {UNKNOWN}


def _of_control(control: Control) -> set[str]:
    is_fitted = control.components is not None or control.kind == "banksy"
    return {COMPONENTS} if is_fitted else set()


def _of_vectors(told: Mapping[str, Any], data: EvaluationSet) -> set[str]:
    """Read what vectors tell of their origin; a corpus is known by its id alone."""
    inference = told.get("inference")
    found: set[str] = set()
    if isinstance(inference, Mapping) and (
        inference.get("components") or inference.get("expression")
    ):
        found.add(COMPONENTS)
    if "trained_on" in told and told.get("steps") == 0:
        return found  # first weights have seen nothing
    # A corpus of another view of the judged slices may have been trained on and embedded.
    corpora = {data.corpus_id, told.get("corpus_id")} - {None}
    is_same = told.get("trained_on") in corpora
    return found | {TRAINING if is_same or _is_trained_here(told) else UNKNOWN}


def _is_trained_here(told: Mapping[str, Any]) -> bool:
    """Return whether a method without weights of its own was trained on the slices themselves."""
    external = told.get("external")
    if isinstance(external, Mapping):
        return external.get("weights_sha256") is None
    return bool("method" in told and told.get("epochs") and not told.get("checkpoint"))


def told_exposure(row: SeenRow) -> set[str] | None:
    """Return what a row tells of its features; none where it is of an older version.

    What controls are fitted on follows from their names.
    """
    if row.seen is not None:
        return set(row.seen.split(_SEPARATOR)) - {""}
    if not is_taken(row.method):
        return None
    control = find_method(row.method)
    return _of_control(control) if isinstance(control, Control) else None


def is_exposed(seen: str) -> bool:
    """Return whether judged spots are known to have taken part."""
    return bool({COMPONENTS, TRAINING} & set(seen.split(_SEPARATOR)))
