"""The licence gate: nothing is published whose licence is unknown or does not allow it."""

from collections.abc import Sequence

from stbuild.corpus.documents import CorpusDocument, SliceEntry
from stbuild.corpus.errors import BadUsageError, GateError, Problem
from stbuild.corpus.names import licence_class, slugify
from stbuild.corpus.release import LicenceEntry
from stbuild.publish.licences import UNKNOWN, parse_licence, why_refused


def class_of(entry: SliceEntry) -> str:
    """Return the licence class of a slice, as flags name it."""
    return licence_class(entry.licence) or UNKNOWN


def pass_gate(
    document: CorpusDocument, leave_out: Sequence[str], stated: Sequence[str]
) -> tuple[tuple[str, ...], tuple[LicenceEntry, ...]]:
    """Return the classes that are left out, and the licences of what stays.

    Parameters
    ----------
    document
        The corpus.
    leave_out
        Licences or classes to leave out.
    stated
        Licences or classes that the publisher states to be allowed to redistribute.

    Raises
    ------
    BadUsageError
        A flag names a class that no slice has, or nothing would be left.
    GateError
        Slices that may not be redistributed, every one of them by name.
    """
    classes: dict[str, list[SliceEntry]] = {}
    for entry in document.slices:
        classes.setdefault(class_of(entry), []).append(entry)
    out = _named(leave_out, classes, "--leave-out")
    may = _named(stated, classes, "--i-may-redistribute")
    if not set(classes) - set(out):
        problem = _problem("P31", "--leave-out", "nothing is left to publish", "leave out less")
        raise BadUsageError(problem)
    problems, licences = [], []
    for name, entries in sorted(classes.items()):
        if name in out:
            continue
        for entry in entries:
            reason = why_refused(entry.licence)
            if reason is not None and name not in may:
                fix = (
                    "state its licence in the sample sheet and build again; or "
                    f"--leave-out {name}; or, if you hold the right, --i-may-redistribute {name}"
                )
                problems.append(_problem("P30", f"slice '{entry.name}'", reason, fix))
        licences.append(
            LicenceEntry(
                name=name,
                spdx=parse_licence(entries[0].licence),
                slices=tuple(entry.slug for entry in entries),
                stated=name in may,
            )
        )
    if problems:
        raise GateError(*problems)
    return tuple(out), tuple(licences)


def _named(given: Sequence[str], classes: dict[str, list[SliceEntry]], flag: str) -> list[str]:
    names = sorted({slugify(name) for name in given})
    if unknown := [name for name in names if name not in classes]:
        what = f"no slice has licence {', '.join(unknown)}"
        raise BadUsageError(_problem("P31", flag, what, f"classes: {', '.join(sorted(classes))}"))
    return names


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
