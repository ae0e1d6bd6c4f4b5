"""Domain maps: labels, the split, and what each method predicts, spot by spot.

Drawn off screen with matplotlib's Agg; the same results give the same bytes under one version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from sttrain.judge.results import Predictions, SpotTable
from sttrain.plots import drawing, new_figure, plain, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE: Final = 3.2
"""Inches of a panel."""
_ROLES: Final = {"T": "train", "E": "test", "b": "buffer", ".": "unlabelled"}
_ROLE_COLOURS: Final = {"T": "#333333", "E": "#c9d7e3", "b": "#e8b04b", ".": "#eeeeee"}
_NO_LABEL: Final = "#dddddd"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The predictions of one method."""

    title: str
    note: str
    """Scores on the test spots."""
    spots: Predictions


def domain_map(spots: SpotTable, panels: Sequence[Panel], title: str) -> bytes:
    """Draw a slice: labels, who trains and who is judged, then the methods.

    Methods are drawn on every spot; their scores count test spots only.

    Parameters
    ----------
    spots
        Positions and labels.
    panels
        At least one method.
    title
        Line above the panels.

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
        names = sorted({name for name in spots.labels if name is not None})
        names += sorted({name for panel in panels for name in panel.spots.predicted} - set(names))
        colours = _colours(names)
        n_columns = min(4, len(panels) + 2)
        n_rows = ceil((len(panels) + 2) / n_columns)
        figure = new_figure(_SIDE * n_columns + 1.6, (_SIDE + 0.3) * n_rows)
        grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
        shades = [colours[name] if name is not None else _NO_LABEL for name in spots.labels]
        _scatter(grid[0], spots, shades, "labels")
        roles = [_ROLE_COLOURS[code] for code in panels[0].spots.codes]
        _scatter(grid[1], spots, roles, "split")
        for axes, panel in zip(grid[2:], panels, strict=False):
            shades = [colours[name] for name in panel.spots.predicted]
            _scatter(axes, spots, shades, f"{panel.title}\n{panel.note}")
        for axes in grid[len(panels) + 2 :]:
            axes.set_axis_off()
        _legend(figure, colours, set(panels[0].spots.codes))
        figure.suptitle(plain(title), fontsize=10)
        figure.tight_layout(rect=(0, 0, 1 - 1.5 / figure.get_figwidth(), 0.97))
        return to_png(figure)


def _scatter(axes: "Axes", spots: SpotTable, colours: Sequence[str], title: str) -> None:
    x, y = spots.xy.T
    extent = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    # Points of about the spacing that as many spots in a square of this extent would have.
    size = (_SIDE * 72 * 0.72 * np.sqrt(np.ptp(x) * np.ptp(y) / len(x)) / extent) ** 2
    axes.scatter(x, y, c=list(colours), s=float(np.clip(size, 1.0, 80.0)), linewidths=0)
    axes.set_title(plain(title), fontsize=8)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_axis_off()


def _legend(figure: "Figure", colours: dict[str, str], codes: set[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [*colours.items()]
    entries += [(_ROLES[code], _ROLE_COLOURS[code]) for code in _ROLES if code in codes]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=plain(name))
        for name, colour in entries
    ]
    figure.legend(handles=handles, loc="center right", fontsize=7, frameon=False)


def _colours(names: Sequence[str]) -> dict[str, str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    table = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: to_hex(table(i % table.N)) for i, name in enumerate(names)}
