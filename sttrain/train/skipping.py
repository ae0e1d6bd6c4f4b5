"""Patches that are damaged or missing and were left out of their batches: counted, told, bounded.

A hole in a batch moves no other patch, so the order stays what it is; all ranks take every step,
and the loss is a mean over the targets that there are.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from sttrain.errors import IntegrityError, Problem, StError, printable
from sttrain.stream.batches import Batch
from sttrain.stream.order import Order
from sttrain.train.distributed import Ranks

_NAMED: Final = 8
"""Patches of a rank and step that the log names."""
_LONGEST: Final = 400


@dataclass(kw_only=True)
class Skipped:
    """What one call of ``fit`` left out, on all ranks together."""

    order: Order
    share: float
    """Share of an epoch's patches that may be left out."""
    total: int = 0
    """Patches left out so far, counted in every epoch anew."""
    first: str = ""
    """What was wrong with the first of them."""
    _epoch: int = field(default=-1, init=False)
    _in_epoch: int = field(default=0, init=False)

    @property
    def most(self) -> int:
        """Patches of an epoch that may be left out."""
        return math.ceil(self.share * self.order.n_samples)

    def note(
        self,
        batch: Batch | None,
        error: StError | None,
        ranks: Ranks,
        device: torch.device | None = None,
    ) -> Mapping[str, Any] | None:
        """Count what a step leaves out; called by all ranks alike.

        Parameters
        ----------
        batch, error
            What this rank read, or why it could not.
        ranks, device
            Those that exchange, and where.

        Returns
        -------
        dict
            What the log is told of this step; None where nothing was left out.

        Raises
        ------
        IntegrityError
            More were left out in this epoch than may be.
        """
        damaged = () if batch is None else batch.damaged
        (n,) = ranks.agree([len(damaged)], error, device)
        if not n or batch is None:
            return None
        told = [_short(item) for item in damaged[:_NAMED]]
        lines = [line for text in ranks.gather(json.dumps(told), device) for line in _lines(text)]
        if batch.epoch != self._epoch:
            self._epoch, self._in_epoch = batch.epoch, 0
        self.total += int(n)
        self._in_epoch += int(n)
        self.first = self.first or lines[0]
        if self._in_epoch > self.most:
            ranks.agree((), self._too_many(lines[0]) if ranks.is_first else None, device)
        return {"epoch": batch.epoch, "patches": int(n), "damaged": lines}

    def _too_many(self, line: str) -> IntegrityError:
        n = self.order.n_samples
        return IntegrityError(
            Problem(
                code="L20",
                subject=f"epoch {self._epoch}",
                what=f"{self._in_epoch:,} of {n:,} patches are damaged or missing, at most "
                f"{self.most:,} may be skipped (the last: {line})",
                fix="run `stbuild verify` on the corpus and get the damaged shards again, or raise "
                "--max-skipped",
            )
        )


def _short(error: IntegrityError) -> str:
    problem = error.problems[0]
    return printable(f"{problem.where}: {problem.what}")[:_LONGEST]


def _lines(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:  # cut off
        return [text[2:_LONGEST]]
    return [str(line) for line in found]
