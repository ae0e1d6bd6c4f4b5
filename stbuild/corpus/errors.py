"""Errors that a user can act on, and the exit code of each kind.

A message names the case, the thing, the place, what was expected and what came, and what to do
next. Several problems travel together, so that a run reports all of them at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


def printable(text: object) -> str:
    """Escape everything in `text` that could move a terminal's cursor or break a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: its case, what it concerns, where, and the remedy."""

    code: str
    """Stable case id, such as ``B030``; see ``manifests/schema/errors.md``."""
    subject: str
    """What is concerned, such as ``slice 'S12'``."""
    what: str
    """What was expected and what came, with the number of offenders and the first of them."""
    fix: str
    """What the user should do next."""
    where: str | None = None
    """File and field, such as ``data/S12.h5ad:/obsm/spatial``."""

    def __str__(self) -> str:
        place = f" ({printable(self.where)})" if self.where else ""
        return (
            f"error[{self.code}] {printable(self.subject)}{place}: "
            f"{printable(self.what)}. fix: {printable(self.fix)}"
        )

    def as_dict(self) -> dict[str, str | None]:
        """Return the same facts for ``--json``."""
        return {
            "level": "error",
            "code": self.code,
            "subject": self.subject,
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
        }


class StError(Exception):
    """Base of every error that is the user's, the input's or the machine's, not a bug of ours."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["StError"], tuple[Problem, ...]]:
        return type(self), self.problems


class BadUsageError(StError):
    """A flag, a config key or a combination of them makes no sense (exit 2)."""

    exit_code = 2


class BadInputError(StError):
    """An input was rejected and nothing was published (exit 3)."""

    exit_code = 3


class ConflictError(StError):
    """The output holds something else, or another process holds it (exit 5)."""

    exit_code = 5


class IntegrityError(StError):
    """Bytes on disk are not what a document says they are (exit 6)."""

    exit_code = 6


class ResourceError(StError):
    """Disk, memory, file handles or time ran out; a rerun resumes (exit 7)."""

    exit_code = 7


class RemoteError(StError):
    """A remote or I/O failure after all retries; a rerun resumes (exit 8)."""

    exit_code = 8


class PlatformError(StError):
    """The environment lacks something that is needed (exit 9)."""

    exit_code = 9


class DivergedError(StError):
    """Training produced a loss that is not finite (exit 10)."""

    exit_code = 10


class GateError(StError):
    """A gate (occupancy, licence, leakage) refused (exit 11)."""

    exit_code = 11


def merge_errors(errors: Iterable[StError]) -> StError:
    """Join several errors into one that lists every problem, of the class of the first.

    Raises
    ------
    ValueError
        If `errors` is empty.
    """
    listed = list(errors)
    if not listed:
        msg = "no errors to merge"
        raise ValueError(msg)
    return type(listed[0])(*(problem for error in listed for problem in error.problems))
