"""What can go wrong with one file that is fetched, and how several such errors become one.

Messages name the URL without its query, which may hold a token.
"""

from collections.abc import Sequence
from typing import Final

from stbuild.corpus.errors import (
    BadInputError,
    ConflictError,
    IntegrityError,
    PlatformError,
    Problem,
    RemoteError,
    ResourceError,
    StError,
)
from stbuild.corpus.transient import TransientError

_ORDER: Final = (
    IntegrityError,
    ConflictError,
    BadInputError,
    PlatformError,
    ResourceError,
    RemoteError,
)
"""What no rerun mends comes first: the exit code says whether a rerun helps."""

GET_AGAIN: Final = "run the same command again: it goes on where it stopped"


class StaleError(TransientError):
    """What is at hand is not the beginning of the file any more."""


class StoppedError(Exception):
    """The run was interrupted; what was received is kept."""


class ArchiveFaultError(Exception):
    """What is wrong with an archive or its member."""


def file_problem(code: str, subject: str, where: str, what: str, fix: str) -> Problem:
    """Return the problem of one file, named by its URL or path."""
    return Problem(code=code, subject=subject, where=where, what=what, fix=fix)


def join_errors(errors: Sequence[StError]) -> StError:
    """Join the errors of several files into one that lists every problem once, in their order.

    Its class is that of the error that no rerun mends, where there is one.
    """
    kinds = [kind for kind in _ORDER if any(isinstance(error, kind) for error in errors)]
    problems = dict.fromkeys(problem for error in errors for problem in error.problems)
    return (kinds[0] if kinds else StError)(*problems)
