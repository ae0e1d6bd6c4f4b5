"""Curves over what the checkpoints of a suite differ in: the window, or the number of genes."""

import re
from dataclasses import dataclass
from typing import Final

from sttrain.bench.rows import DETECTION
from sttrain.bench.summary import Summary
from sttrain.plots import drawing, new_figure, plain, to_png

_NUMBERED: Final = re.compile(r"(.+)-(\d+)")
FEWEST: Final = 3
"""Points that make a curve."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One metric of one data set over a number in the names of checkpoints."""

    family: str
    """What the names share, such as ``ours``."""
    data: str
    split: str
    head: str
    metric: str
    points: tuple[tuple[int, float, float], ...]
    """Number, mean and standard deviation over seeds; 0 of a single seed."""
    printed: tuple[tuple[int, float], ...]
    """Number and printed value, where the data set is the same."""


def find_trends(summary: Summary) -> list[Trend]:
    """Return a trend for every column in which at least three numbered checkpoints stand."""
    families: dict[str, dict[int, str]] = {}
    for checkpoint in summary.document.suite.checkpoints:
        if match := _NUMBERED.fullmatch(checkpoint.name):
            families.setdefault(match[1], {})[int(match[2])] = checkpoint.name
    found: list[Trend] = []
    for column in summary.columns:
        for family, names in families.items():
            entries = {
                number: entry
                for number, name in sorted(names.items())
                if column.task == DETECTION and (entry := summary.entries.get((name, column)))
            }
            if len(entries) < FEWEST:
                continue
            found.append(
                Trend(
                    family=family,
                    data=column.data,
                    split=column.split,
                    head=column.head,
                    metric=column.metric,
                    points=tuple((n, e.cell.mean, e.cell.sd or 0.0) for n, e in entries.items()),
                    printed=tuple(
                        (n, e.printed.value) for n, e in entries.items() if e.printed is not None
                    ),
                )
            )
    return found


def draw_trends(trends: list[Trend]) -> bytes:
    """Draw trends, a panel each; printed values are dashed.

    Parameters
    ----------
    trends
        At least one.

    Returns
    -------
    bytes
        A PNG without time stamp or software name.

    Raises
    ------
    PlatformError
        matplotlib is not installed.
    """
    with drawing():
        n_columns = min(4, len(trends))
        n_rows = -(-len(trends) // n_columns)
        figure = new_figure(3.2 * n_columns, 2.6 * n_rows)
        grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
        for axes, trend in zip(grid, trends, strict=False):
            numbers, means, deviations = zip(*trend.points, strict=True)
            axes.errorbar(numbers, means, deviations, marker="o", capsize=3, label="here")
            if trend.printed:
                axes.plot(*zip(*trend.printed, strict=True), "s--", label="printed")
                axes.legend(fontsize=7)
            axes.set_title(plain(f"{trend.data}, {trend.split}\n{trend.head}"), fontsize=8)
            axes.set_xlabel(plain(f"{trend.family}-N"), fontsize=8)
            axes.set_ylabel(plain(trend.metric), fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in grid[len(trends) :]:
            axes.set_axis_off()
        figure.tight_layout()
        return to_png(figure)
