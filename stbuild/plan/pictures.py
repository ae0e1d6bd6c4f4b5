"""Small pictures for the page: grids as palette PNGs, spots at their places, histograms as SVG.

Bytes depend on the arrays alone. Pillow comes with the extra ``plots``.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.errors import PlatformError, Problem

_STOPS: Final = np.asarray(
    [[13, 33, 79], [24, 97, 141], [47, 158, 143], [160, 205, 112], [253, 231, 76]], float
)
"""Dark blue to yellow, rising in lightness: readable in grey and without red and green."""
_HOLE: Final = (232, 232, 236)
LABEL_COLOURS: Final = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#9d755d",
    "#ff9da6", "#bab0ac", "#2f6690", "#c85200",
)  # fmt: skip
_PLACES: Final = 220
"""Pixels of the picture of spots at their places."""


def ramp(n: int = 200) -> NDArray[np.uint8]:
    """Return (n, 3) colours from few to many."""
    at = np.linspace(0, len(_STOPS) - 1, n)
    channels = [np.interp(at, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)]
    colours: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return colours


def picture_totals(totals: NDArray[np.uint32]) -> str:
    """Return a data URI of library sizes on the grid, log scale; holes are light grey."""
    index = np.zeros(totals.shape, np.uint8)
    seen = totals > 0
    if seen.any():
        index[seen] = _shade(totals[seen])
    return _png(index, [_HOLE, *(tuple(int(v) for v in c) for c in ramp())])


def _shade(totals: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return palette entries 1 to 200 of positive totals, log scale, the outermost 2 % clipped."""
    logs = np.log10(np.maximum(totals, 1).astype(float))
    low, high = np.quantile(logs, [0.02, 0.98])
    scaled = np.clip((logs - low) / max(high - low, 1e-9), 0, 1)
    shades: NDArray[np.uint8] = 1 + np.rint(scaled * 199).astype(np.uint8)
    return shades


def picture_labels(labels: NDArray[np.int16], occupied: NDArray[np.bool_]) -> str:
    """Return a data URI of label codes on the grid; unlabelled spots are darker than holes."""
    index = np.zeros(labels.shape, np.uint8)
    index[occupied] = 1
    known = labels >= 0
    index[known] = 2 + labels[known] % len(LABEL_COLOURS)
    palette: list[tuple[int, ...]] = [_HOLE, (198, 198, 206)]
    palette += [(int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in LABEL_COLOURS]
    return _png(index, palette)


def picture_places(xy: NDArray[np.float64], totals: NDArray[np.uint32]) -> str:
    """Return a data URI of the spots where the source has them, y downwards.

    Parameters
    ----------
    xy
        (N, 2) positions.
    totals
        (N,) library sizes.
    """
    low, high = xy.min(axis=0), xy.max(axis=0)
    extent = max(float((high - low).max()), 1e-9)
    dot = int(np.clip(0.55 * _PLACES / np.sqrt(len(xy)), 1, 9))
    at = np.clip((xy - low) / extent * (_PLACES - dot), 0, _PLACES - dot).astype(int)
    index = np.zeros((at[:, 1].max() + dot, at[:, 0].max() + dot), np.uint8)
    for dy in range(dot):
        for dx in range(dot):
            index[at[:, 1] + dy, at[:, 0] + dx] = _shade(totals)
    return _png(index, [_HOLE, *(tuple(int(v) for v in c) for c in ramp())])


def _png(index: NDArray[np.uint8], palette: Sequence[tuple[int, ...]]) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        problem = Problem(
            code="E009",
            subject="Pillow",
            what=f"the report needs it, but {error}",
            fix="pip install 'stcorpus[plots]'",
        )
        raise PlatformError(problem) from error
    image = Image.fromarray(index, mode="P")
    image.putpalette([channel for colour in palette for channel in colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(values: NDArray[np.generic], title: str) -> str:
    """Return an SVG histogram on a log axis with its range and median in words."""
    numbers = np.asarray(values, float)
    numbers = numbers[numbers > 0]
    if not numbers.size:
        return ""
    low, high = float(numbers.min()), float(numbers.max())
    edges = np.geomspace(low, max(high, low * 1.0001), 33)
    counts, _ = np.histogram(np.clip(numbers, low, high), edges)
    top = max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{4 + 6 * i}" y="{64 - 58 * n / top:.1f}" width="5" height="{58 * n / top:.1f}"/>'
        for i, n in enumerate(counts.tolist())
        if n
    )
    median = float(np.median(numbers))
    place = 4 + 192 * np.log(median / low) / max(np.log(high / low), 1e-9)
    words = f"{title}: {low:,.0f} to {high:,.0f}, median {median:,.0f}"
    return (
        f'<figure><svg viewBox="0 0 200 84" role="img" aria-label="{escape(words)}">'
        f'<g class="bars">{bars}</g><line class="median" x1="{place:.1f}" x2="{place:.1f}" y1="2" '
        f'y2="66"/><line class="axis" x1="2" x2="198" y1="65" y2="65"/>'
        f'<text x="2" y="79">{low:,.0f}</text><text x="198" y="79" text-anchor="end">{high:,.0f}'
        f"</text></svg><figcaption>{escape(title)}, median {median:,.0f}</figcaption></figure>"
    )
