"""Problems of a source before anyone knows which slice it belongs to, and a collector of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from stbuild.corpus.errors import BadInputError, Problem

T = TypeVar("T")


class SourceFaultError(Exception):
    """One problem of a source, before the slice's id and path are added."""

    def __init__(self, code: str, field: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.code, self.field, self.what, self.fix = code, field, what, fix

    def problem(self, name: str, path: str) -> Problem:
        """Return the problem as the user sees it."""
        where = f"{path}:{self.field}" if self.field else path
        return Problem(
            code=self.code, subject=f"slice '{name}'", where=where, what=self.what, fix=self.fix
        )


@dataclass
class Faults:
    """Collects the faults of one source, so that the user hears of all of them."""

    found: list[SourceFaultError] = field(default_factory=list)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Run one step of a reader; keep its fault and return None if it has one."""
        try:
            return step()
        except SourceFaultError as fault:
            self.found.append(fault)
        return None

    def error(self, name: str, path: str) -> BadInputError:
        """Return all faults as one error about slice `name` at `path`."""
        return BadInputError(*(fault.problem(name, path) for fault in self.found))
