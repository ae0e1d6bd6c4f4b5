"""Turn and mirror windows: the symmetries that map a lattice of sites to itself.

A window is square, so its cells have the eight symmetries of a square. The sites in them do not
always:

- layouts ``square`` and ``bin``: sites are as far apart along rows as along columns, and all eight
  (four rotations, each mirrored or not) keep every distance;
- every other layout: rows and columns have pitches of their own, and what exchanges them
  stretches the tissue. Four are left: identity, mirror left to right, mirror top to bottom, and
  both, which is a half turn. In ``hex-offset`` every other row is shifted by half a cell; each of
  the four maps such rows onto such rows, at times onto those of the other parity, as in a window
  that begins one row later. Rotations by 60 degrees are symmetries of the hexagonal lattice, but
  not of a window of its rows: they would leave holes at its corners.

Which one a patch gets is a function of (seed, epoch, step, row of the global batch).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sttrain.stream.batches import Batch
from sttrain.train.objectives import keyed_generator

SQUARE_LAYOUTS: Final = frozenset({"square", "bin"})
N_SYMMETRIES: Final = 8
"""Bit 0 mirrors left to right, bit 1 top to bottom, bit 2 exchanges rows and columns first."""


def turn(values: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """Return a view of windows (..., P, P) under one of the symmetries of a square."""
    if symmetry & 4:
        values = values.swapaxes(-1, -2)
    if symmetry & 2:
        values = values[..., ::-1, :]
    return values[..., ::-1] if symmetry & 1 else values


def draw_symmetry(layout: str, seed: int, epoch: int, step: int, row: int) -> int:
    """Draw a symmetry of a layout, uniformly."""
    n = N_SYMMETRIES if layout in SQUARE_LAYOUTS else N_SYMMETRIES // 2
    generator = keyed_generator("turn", seed, epoch, step, row)
    return int(torch.randint(n, (), generator=generator))


def turn_batch(batch: Batch, seed: int, layouts: Mapping[str, str]) -> Batch:
    """Return the batch with every patch turned or mirrored.

    Parameters
    ----------
    batch
        Patches; they are not changed.
    seed
        Of the run.
    layouts
        Layout of the grid of each slice.
    """
    counts, totals = np.empty_like(batch.counts), np.empty_like(batch.totals)
    for i, row in enumerate(batch.rows.tolist()):
        layout = layouts[batch.slices[i]]
        symmetry = draw_symmetry(layout, seed, batch.epoch, batch.step, row)
        counts[i], totals[i] = turn(batch.counts[i], symmetry), turn(batch.totals[i], symmetry)
    return replace(batch, counts=counts, totals=totals)
