"""One optimizer step, and the device it runs on."""

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from sttrain.config import RunConfig
from sttrain.errors import BadUsageError, DivergedError, Problem
from sttrain.model import MaskedAutoencoder, normalise
from sttrain.objectives import draw_hidden, squared_errors
from sttrain.optimizer import build_optimizer, learning_rate, set_rate
from sttrain.statistics import as_tensors
from sttrain.stream import Batch

_NAMED: Final = 5
"""Keys that a message names."""


@dataclass(kw_only=True)
class Trainer:
    """A model, its optimizer, and how many steps they have taken."""

    config: RunConfig
    model: MaskedAutoencoder
    device: torch.device
    total: int
    """Steps of the whole run."""
    done: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.optimizer = build_optimizer(self.model, self.config.optimizer)

    def step(self, batch: Batch) -> tuple[float, float]:
        """Take one step.

        Returns
        -------
        tuple
            Loss of the batch, and norm of the gradient before it was clipped.

        Raises
        ------
        DivergedError
            The loss or the gradient is not finite; the patches are named and no weight changes.
        """
        errors, counts = self.errors(batch)
        loss = errors.sum() / counts.sum().clamp(min=1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip = self.config.optimizer.clip
        limit = math.inf if clip == "none" else clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise self._diverged(batch, errors, loss.item(), norm.item())
        set_rate(self.optimizer, learning_rate(self.config.optimizer, self.done, self.total))
        self.optimizer.step()
        self.done += 1
        return loss.item(), norm.item()

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the squared errors (B,) and the number of targets (B,) of each patch."""
        tensors = as_tensors(batch.counts, batch.genes, batch.totals, self.device)
        hidden = draw_hidden(
            self.config.mask,
            seed=self.config.seed,
            epoch=batch.epoch,
            step=batch.step,
            rows=torch.from_numpy(batch.rows),
            totals=torch.from_numpy(batch.totals.astype("int64")),
            genes=batch.genes.shape[1],
        ).to(self.device)
        bf16 = self.config.precision == "bf16"
        sites = normalise(*tensors)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            found = self.model(sites, hidden)
        return squared_errors(sites, hidden, found)

    def _diverged(self, batch: Batch, errors: Tensor, loss: float, norm: float) -> DivergedError:
        bad = (~torch.isfinite(errors)).nonzero().flatten().tolist()
        keys = [batch.keys[i] for i in bad] or list(batch.keys)
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        return DivergedError(
            Problem(
                code="T09",
                subject=f"step {self.done + 1}",
                what=f"loss {loss}, gradient norm {norm}; patches {', '.join(keys[:_NAMED])}{more}",
                fix="look at those patches, or lower optimizer.lr in a new run folder; the last "
                "checkpoint is from before this step",
            )
        )


def choose_device(name: str) -> torch.device:
    """Return the device that a flag names; ``auto`` is the first GPU, or the CPU.

    Raises
    ------
    BadUsageError
        There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    n_gpus = torch.cuda.device_count()
    if device is None or (device.type != "cpu" and (device.index or 0) >= n_gpus):
        raise BadUsageError(
            Problem(
                code="B111",
                subject=f"device '{name}'",
                what=f"there is no such device; this machine has a CPU and {n_gpus} GPUs",
                fix="give --device cpu, cuda or cuda:N",
            )
        )
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """Resolve ``auto``: bf16 where the processor multiplies it natively, else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
