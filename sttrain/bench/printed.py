"""Numbers that the paper prints, as data: shown beside ours where the data set is the same."""

import csv
from pathlib import Path
from typing import Final

from stbuild.corpus.documents import Document, read_config
from sttrain.errors import BadInputError, Problem

AVERAGE: Final = "average"
"""What stands for the mean over all data sets of a table."""
SPLIT: Final = "paper20@1"
"""Split of the paper's classifiers."""


class Printed(Document):
    """One number of a table of the paper."""

    table: str
    method: str
    """Name of the method in our suites."""
    row: str
    """Its name in the table."""
    data: str
    """Name of the data set's sheet in ``manifests/corpora``, or ``average``."""
    size: str
    """Side of the hidden square, in Table 7."""
    head: str
    """Start of the name of our head, such as ``MLP``; empty in Table 7."""
    metric: str
    value: float
    note: str
    """What is wrong with it, where it contradicts other numbers."""

    def is_of(self, method: str, split: str, head: str, metric: str) -> bool:
        """Return whether it is the number of a method, split, head and metric of ours."""
        if (self.method, self.metric) != (method, metric) or not head.startswith(self.head):
            return False
        if not self.size:
            return split == SPLIT
        # Each model of Table 7 fills windows of its own size.
        return split == f"window {self.method.rpartition('-')[2]}, size {self.size}"


def read_printed(path: Path, table: str) -> tuple[Printed, ...]:
    """Read the printed numbers of one table.

    Raises
    ------
    BadInputError
        No such file, or no number of the table in it.
    BadUsageError
        A row of another form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("table") == table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(_problem(path, "no printed numbers could be read")) from error
    if not rows:
        raise BadInputError(_problem(path, f"it holds no number of {table}"))
    return tuple(read_config(Printed, dict(row), str(path)) for row in rows)


def _problem(path: Path, what: str) -> Problem:
    fix = "correct `printed` of the suite: a CSV beside it, or none"
    return Problem(code="V20", subject=f"file '{path.name}'", where=str(path), what=what, fix=fix)
