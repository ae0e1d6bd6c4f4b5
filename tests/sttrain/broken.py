"""Trainers that are broken on purpose: what the tests of ranks and of resuming have to notice."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from sttrain.stream.order import Order, World
from sttrain.train.trainer import Trainer


def no_warm_up() -> None:
    """DDP's first backward pass is a step of the run, before and after it is resumed."""
    patch.object(Trainer, "warm_up", lambda self, batch: None).start()


def an_order_for_each_rank() -> None:
    """Every rank shuffles by a seed of its own."""
    real = Order.rank_batch

    def rank_batch(self: Order, epoch: int, step: int, world: World) -> NDArray[np.int64]:
        return real(replace(self, seed=self.seed + world.rank), epoch, step, world)

    patch.object(Order, "rank_batch", rank_batch).start()


VARIANTS: dict[str, Callable[[], None]] = {
    break_it.__name__: break_it for break_it in (no_warm_up, an_order_for_each_rank)
}
"""By name, as `tests.sttrain.starter` takes them from the variable BROKEN."""
