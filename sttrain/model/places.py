"""Which sites of a batch are tokens of the encoder, tokens of the decoder, and targets.

Found from the masks alone, where those are drawn: a device that computes never waits for a
length, and compiled code sees lengths and not masks. Letters: B batch, L sites of a window,
V visible, O observed and T target sites, each the most of any patch of the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Places:
    """Sites of a batch by their use; what pads a patch to the longest one is not valid."""

    visible: Tensor
    """(B, V) int64, sites that the encoder is given."""
    shown: Tensor
    """(B, V) bool, which of them are no padding."""
    observed: Tensor
    """(B, O) int64, sites that the decoder is given."""
    there: Tensor
    """(B, O) bool, which of them are no padding."""
    targets: Tensor
    """(B, T) int64, sites where something is predicted."""
    valid: Tensor
    """(B, T) bool, which of them are no padding."""
    seats: Tensor | None
    """(B, T) int64, the number of each target among the observed sites; None: they are the same."""

    def to(self, device: torch.device) -> "Places":
        """Return the same on a device."""
        return Places(
            visible=send(self.visible, device),
            shown=send(self.shown, device),
            observed=send(self.observed, device),
            there=send(self.there, device),
            targets=send(self.targets, device),
            valid=send(self.valid, device),
            seats=None if self.seats is None else send(self.seats, device),
        )


def locate(observed: Tensor, sites: Tensor, *, elements: bool) -> Places:
    """Find the places of a batch.

    Parameters
    ----------
    observed
        (B, L) bool, sites that were measured.
    sites
        (B, L) bool, sites that are hidden altogether.
    elements
        Whether single values are hidden too, so that every observed site may hold a target.
    """
    visible, shown = pick(observed & ~sites)
    index, there = pick(observed)
    targets, valid, seats = index, there, None
    if not elements:
        targets, valid = pick(sites & observed)
        # The n-th observed site has n - 1 before it; padding may stand anywhere among them.
        number = (observed.cumsum(1) - 1).gather(1, targets)
        seats = number.clamp(0, index.shape[1] - 1)
    return Places(
        visible=visible,
        shown=shown,
        observed=index,
        there=there,
        targets=targets,
        valid=valid,
        seats=seats,
    )


def pick(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the positions that a mask (B, L) holds, in order, padded to the most of any row.

    Returns
    -------
    tuple
        Positions (B, V) int64, distinct within a row, and which of them are in the mask (B, V).
    """
    most = max(1, int(mask.sum(1).max()))
    valid, index = torch.sort(mask, dim=1, descending=True, stable=True)
    return index[:, :most].contiguous(), valid[:, :most].contiguous()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor of the host to a device; to a GPU from pinned memory, without waiting."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
