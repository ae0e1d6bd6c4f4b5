"""Box plots over seeds: how far a method's score depends on who trains."""

from collections.abc import Sequence

from sttrain.judge.results import ResultRow
from sttrain.plots import drawing, new_figure, plain, to_png


def box_plots(rows: Sequence[ResultRow], methods: Sequence[str], metric: str) -> bytes:
    """Draw a box for every method over its seeds (and repeats), a panel for each split and head.

    Parameters
    ----------
    rows
        Rows of one corpus; those of single slices are passed over.
    methods
        Order of the boxes, first on top.
    metric
        Score that is drawn.

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
        pooled = [row for row in rows if row.slice is None]
        splits = sorted({row.split for row in pooled})
        heads = sorted({row.head for row in pooled})
        names = [name for name in methods if any(row.method == name for row in pooled)]
        height = (0.6 + 0.2 * len(names)) * len(splits) + 0.6
        figure = new_figure(1.8 + 3.2 * len(heads), height)
        grid = figure.subplots(len(splits), len(heads), squeeze=False, sharex=True, sharey=True)
        for axes, split in zip(grid, splits, strict=True):
            for panel, head in zip(axes, heads, strict=True):
                values = [
                    [
                        value
                        for row in pooled
                        if (row.method, row.split, row.head) == (name, split, head)
                        and (value := getattr(row, metric)) is not None
                    ]
                    for name in names
                ]
                panel.boxplot(values, orientation="horizontal", widths=0.6,
                              flierprops={"markersize": 3})  # fmt: skip
                panel.set_yticks(range(1, len(names) + 1), [plain(n) for n in names], fontsize=7)
                panel.set_title(plain(f"{split}, {head}"), fontsize=8)
                panel.tick_params(axis="x", labelsize=7)
                panel.grid(axis="x", alpha=0.3)
        grid[0][0].invert_yaxis()
        for panel in grid[-1]:
            panel.set_xlabel(plain(metric), fontsize=8)
        figure.tight_layout()
        return to_png(figure)
