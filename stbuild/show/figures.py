"""Pictures of a slice and its patches: the paper's Figure 2 for real data.

matplotlib is drawn with Agg and without time stamps, so a picture is the same bytes each time.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import BadUsageError, PlatformError, Problem
from stbuild.corpus.outputs import refuse_inside
from stbuild.corpus.samples import Patch
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.grids import Grid
from stbuild.patches.cutting import cut_slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_GENES = 9


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches.

    Raises
    ------
    PlatformError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlatformError(
            Problem(
                code="E009",
                subject="matplotlib",
                what=f"pictures need it, but {error}",
                fix="pip install 'stcorpus[plots]'",
            )
        ) from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG without software name or date.

    Raises
    ------
    BadUsageError
        Another suffix, or a place inside a corpus or grid.
    ResourceError
        The disk refuses.
    """
    refuse_inside(path)
    if path.suffix.lower() != ".png":
        what, fix = f"pictures are PNG, not '{path.suffix}'", "give a name such as x.png"
        problem = Problem(
            code="B111", subject=f"output '{path.name}'", where=str(path), what=what, fix=fix
        )
        raise BadUsageError(problem)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    write_durable(path, raw.getvalue())


def draw_slice(grid: Grid, config: ShardConfig) -> "Figure":
    """Draw a slice as the paper's Figure 2: original spots, grid, one patch, its genes.

    Parameters
    ----------
    grid
        The slice.
    config
        Window and gene choice; the patch is training window 0 under its seed.
    """
    one = config.model_copy(update={"n_per_slice": 1, "cover": None})
    window, patch = next(cut_slice(grid, Vocabulary(tuple(grid.genes)), (), one))
    figure = new_figure(16, 4.9)
    left, middle, right, panel = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.1])
    meta = grid.meta
    spots = left.scatter(grid.xy[:, 0], grid.xy[:, 1], c=np.log10(grid.totals), s=4, lw=0)
    left.set(title=f"{meta.n_spots:,} original spots", aspect="equal")
    left.set(xlabel=f"x [{meta.unit}]", ylabel=f"y [{meta.unit}]")
    left.invert_yaxis()
    _scale_bar(left, grid)
    figure.colorbar(spots, ax=left, label="log10 library size", shrink=0.7)
    totals = np.zeros(meta.shape, np.uint32)
    totals[grid.rows, grid.cols] = grid.totals
    _show_sites(middle, totals)
    middle.set_title(f"grid {meta.shape[0]} x {meta.shape[1]} ({meta.layout})")
    corner = (window.col - 0.5, window.row - 0.5)
    from matplotlib.patches import Rectangle

    side = config.window
    middle.add_patch(Rectangle(corner, side, side, fill=False, ec="red", lw=1.5))
    _show_sites(right, patch.totals)
    right.set_title(f"one patch, {window.observed} of {side * side} sites")
    _show_genes(panel, patch, grid.genes)
    figure.suptitle(f"{meta.name}: from spots to a training sample", fontsize="large")
    return figure


def _scale_bar(axes: "Axes", grid: Grid) -> None:
    meta = grid.meta
    if meta.pitch is None or meta.pitch_um is None:
        return
    length = 1000 / meta.pitch_um * meta.pitch
    x, y = float(grid.xy[:, 0].min()), float(grid.xy[:, 1].max()) + 2 * meta.pitch
    axes.plot([x, x + length], [y, y], color="black", lw=3, solid_capstyle="butt")
    axes.text(x + length / 2, y + 2 * meta.pitch, "1 mm", ha="center", va="top")


def _show_sites(axes: "Axes", totals: NDArray[Any]) -> None:
    """Show library sizes; sites that were not measured stay white."""
    shown = np.ma.masked_equal(totals, 0)
    axes.imshow(np.ma.log10(shown), interpolation="nearest")
    axes.set(xlabel="column", ylabel="row")


def _show_genes(axes: "Axes", patch: Patch, genes: Any) -> None:  # noqa: ANN401 - any sequence of ids
    """Show the channels with most variance as a mosaic of small images."""
    observed = patch.totals > 0
    scale = np.where(observed, 1e4 / np.maximum(patch.totals, 1), 0)
    values = np.log1p(patch.counts[: patch.meta.n_genes] * scale)
    spread = values[:, observed].var(axis=1)
    best = np.sort(np.argsort(-spread, kind="stable")[:_N_GENES])
    side = patch.totals.shape[0]
    down, across = side + max(2, side // 6), side + 1  # room for a gene's name above its image
    mosaic = np.ma.masked_all((3 * down, 3 * across - 1))
    for place, channel in enumerate(best):
        top, left = (place // 3 + 1) * down - side, place % 3 * across
        image = np.ma.masked_array(values[channel], ~observed)
        mosaic[top : top + side, left : left + side] = image
        name = str(genes[patch.genes[channel]])
        axes.text(left - 0.5, top - 0.7, name, fontsize=6, va="bottom")
    axes.imshow(mosaic, interpolation="nearest", cmap="magma")
    axes.set_title(f"{len(best)} of its {patch.meta.n_genes} genes, log1p(CP10K)")
    axes.axis("off")


def draw_patch(patch: Patch, genes: list[str]) -> "Figure":
    """Draw one patch of a corpus: library sizes, and the genes with most variance."""
    figure = new_figure(9, 4.6)
    left, right = figure.subplots(1, 2)
    _show_sites(left, patch.totals)
    left.set_title(f"{patch.meta.observed} sites observed")
    _show_genes(right, patch, genes)
    figure.suptitle(patch.meta.key)
    return figure
