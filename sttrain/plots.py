"""Pictures, drawn off screen with matplotlib's Agg: the same numbers give the same bytes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stbuild.corpus.errors import PlatformError
from sttrain.errors import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI: Final = 110


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches that is drawn off screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG without time stamp or software name."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def drawing(instead: str = "or give --no-maps") -> Iterator[None]:
    """Use matplotlib's own defaults, whatever the user's settings; say what is missing.

    Parameters
    ----------
    instead
        What to do where matplotlib cannot be installed.

    Raises
    ------
    PlatformError
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        import matplotlib.style
    except ImportError as error:
        raise PlatformError(
            Problem(
                code="E009",
                subject="matplotlib",
                what="it is not installed, and pictures are drawn with it",
                fix=f"pip install 'stcorpus[plots]'; {instead}",
            )
        ) from error
    with mpl.style.context("default"):
        yield


def plain(text: str) -> str:
    """Keep matplotlib from reading formulas into names."""
    return text.replace("$", r"\$")
