"""The optimizer, its learning rate as a function of the step, and its state as named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sttrain.errors import IntegrityError, Problem
from sttrain.train.config import OptimizerConfig
from sttrain.train.sharding import part_like


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer; only matrices of the layers decay.

    A row of the gene table is not decayed: most genes are absent from a batch, and their rows
    would shrink without having been used.
    """
    table: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        (table if name == "table" else decayed if weight.ndim == 2 else free).append(weight)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "relative": 1.0},
        {"params": free, "weight_decay": 0.0, "relative": 1.0},
        {"params": table, "weight_decay": 0.0, "relative": config.table_rate},
    ]
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(config: OptimizerConfig, done: int, total: int) -> float:
    """Return the rate of a step.

    Parameters
    ----------
    config
        Greatest rate, warm-up and schedule.
    done
        Steps taken before this one.
    total
        Steps of the whole run.
    """
    rising = round(config.warmup * total)
    if done < rising:
        return config.lr * (done + 1) / rising
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "wsd":
        falling = max(1, round(config.decay * total))
        return config.lr * min(1.0, (total - done) / falling)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, total - rising)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; the gene table has its own multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["relative"]


def pack_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors as ``<what>/<name of the weight>``, where they are."""
    return {
        f"{what}/{name}": value.detach()
        for name, weight in model.named_parameters()
        for what, value in optimizer.state[weight].items()
    }


def unpack_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put tensors that :func:`pack_state` returned into an optimizer.

    Raises
    ------
    IntegrityError
        They belong to other weights.
    """
    weights = dict(model.named_parameters())
    for key, value in tensors.items():
        what, _, name = key.partition("/")
        weight = weights.get(name)
        if weight is None or (value.ndim and value.shape != weight.shape):
            raise IntegrityError(
                Problem(
                    code="T02",
                    subject="optimizer state",
                    what=f"'{key}' of shape {tuple(value.shape)} belongs to no weight",
                    fix="remove this checkpoint; the run goes on from the one before",
                )
            )
        if value.ndim:
            optimizer.state[weight][what] = part_like(value, weight).clone()
        else:
            # The counter is where the optimizer itself would have it.
            optimizer.state[weight][what] = (
                value.to(weight.device) if weight.is_cuda else value.clone()
            )
