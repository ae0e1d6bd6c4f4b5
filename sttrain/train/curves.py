"""The loss curve of a run, as a picture: the same log gives the same bytes under one matplotlib."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import PlatformError
from sttrain.plots import drawing, new_figure, to_png
from sttrain.train.run_folder import LOG, read_log

PICTURE: Final = "loss.png"
_SMOOTH: Final = 20
"""The running mean spans one in so many of the logged steps."""


def plot_losses(run: Path) -> Path | None:
    """Draw the losses that a run logged into ``loss.png`` of its folder.

    Parameters
    ----------
    run
        Run folder.

    Returns
    -------
    pathlib.Path or None
        The picture; none where the log holds no loss.

    Raises
    ------
    PlatformError
        matplotlib is not installed.
    ResourceError
        The disk refuses.
    """
    steps, losses = read_losses(run)
    if not steps:
        return None
    write_durable(run / PICTURE, draw_losses(steps, losses))
    return run / PICTURE


def plot_if_possible(run: Path, say: Callable[[str], None]) -> Path | None:
    """Draw as :func:`plot_losses`; without matplotlib, say so and go on.

    Raises
    ------
    ResourceError
        The disk refuses.
    """
    try:
        return plot_losses(run)
    except PlatformError as error:
        say(f"no {PICTURE}: {error.problems[0].what}; {error.problems[0].fix}")
        return None


def read_losses(run: Path) -> tuple[list[int], list[float]]:
    """Return the steps and the finite losses that a run logged, in order of the steps."""
    found: dict[int, float] = {}
    for line in read_log(run / LOG):
        steps, loss = line["steps"], line.get("loss")
        if line["event"] == "step" and isinstance(steps, int) and isinstance(loss, float):
            found[steps] = loss
    kept = sorted((step, loss) for step, loss in found.items() if math.isfinite(loss))
    return [step for step, _ in kept], [loss for _, loss in kept]


def running_mean(values: Sequence[float], span: int) -> list[float]:
    """Return, for each value, the mean of it and of up to `span` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - span)
    return [float(mean) for mean in (sums[ends] - sums[starts]) / (ends - starts)]


def draw_losses(steps: Sequence[int], losses: Sequence[float]) -> bytes:
    """Return a PNG without time stamp or software name.

    Raises
    ------
    PlatformError
        matplotlib is not installed.
    """
    span = max(1, len(losses) // _SMOOTH)
    with drawing("the numbers are in log.jsonl"):
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(7, 4)
        axes = figure.subplots()
        axes.plot(steps, losses, color="#9db4c8", lw=0.8, marker="." if len(steps) < 3 else "")
        if span > 1:
            mean = running_mean(losses, span)
            axes.plot(steps, mean, color="#1f4e79", lw=1.6, label=f"mean of {span} logged steps")
            axes.legend(frameon=False)
        axes.set(xlabel="step", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if min(losses) > 0 and max(losses) > 20 * min(losses):
            axes.set_yscale("log")
        figure.tight_layout()
        return to_png(figure)
