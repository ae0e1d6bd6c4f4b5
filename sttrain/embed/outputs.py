"""Whether vectors may be written where a file stands: over those of the same model and corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from stbuild.corpus.outputs import refuse_inside
from sttrain.embed.embeddings import read_embeddings, require_suffix
from sttrain.errors import BadInputError, ConflictError, IntegrityError, Problem

_VERSIONS: Final = "versions"
"""Part of a provenance that a rerun may change."""
_NAMED: Final = 3


def require_place(out: Path) -> Mapping[str, Any] | None:
    """Return where the vectors come from that stand at a path, None where nothing stands.

    Raises
    ------
    BadUsageError
        A suffix other than those that are written, or a place inside a finished corpus.
    ConflictError
        V10: what stands there are no vectors of ours.
    """
    require_suffix(out, written=True)
    refuse_inside(out)
    if not out.exists():
        return None
    try:
        found = read_embeddings(out).provenance
    except (BadInputError, IntegrityError):
        found = {}
    if not found:
        what = "what stands there are no vectors that sttrain wrote"
        raise _conflict(out, what, "choose another -o, or remove it")
    return found


def refuse_others(
    out: Path, before: Mapping[str, Any] | None, after: Mapping[str, Any], *, replace: bool
) -> None:
    """Refuse to write over vectors of another model, corpus or setting, unless that is wanted.

    Parameters
    ----------
    out
        The file.
    before
        What :func:`require_place` returned.
    after
        Where the new vectors come from, or as much of it as is known.
    replace
        Whether others may be replaced.

    Raises
    ------
    ConflictError
        V10, with what differs.
    """
    if before is None or replace:
        return
    from sttrain.train.config import differences  # it needs torch, which reading vectors does not

    told = {key: value for key, value in before.items() if key in after}
    known = {key: value for key, value in after.items() if key != _VERSIONS}
    told.pop(_VERSIONS, None)
    if changed := differences(told, known):
        what = f"it holds other vectors: {'; '.join(changed[:_NAMED])}"
        raise _conflict(out, what, "choose another -o, or pass --replace")


def _conflict(out: Path, what: str, fix: str) -> ConflictError:
    subject = f"file '{out.name}'"
    return ConflictError(Problem(code="V10", subject=subject, where=str(out), what=what, fix=fix))
