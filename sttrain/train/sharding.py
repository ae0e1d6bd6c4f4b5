"""A model too wide for one device: its weights, gradients and running means parted over ranks.

FSDP2 (``torch.distributed.fsdp.fully_shard``), layer by layer. The gene table stays whole on every
rank: its gradient has the rows of a batch alone, and they are exchanged as under DDP. Whatever
leaves here is whole: checkpoints are the same files at any number of ranks, parted or not.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sttrain.model.autoencoder import MaskedAutoencoder


def shard_model(model: MaskedAutoencoder, n_ranks: int, device: torch.device) -> None:
    """Part the weights of a model, the same on every rank, over all ranks; each layer by itself.

    Parameters
    ----------
    model
        The model, on the host.
    n_ranks
        Ranks of the process group.
    device
        Where this rank computes; every layer is moved there as it is parted.
    """
    mesh = init_device_mesh(device.type, (n_ranks,))
    for block in (*model.blocks, *model.decoder):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params={model.table})
    model.to(device)


def is_parted(value: Tensor) -> bool:
    """Return whether this rank holds only a part of a tensor."""
    return isinstance(value, DTensor)


def whole(value: Tensor) -> Tensor:
    """Return a tensor with the parts of all ranks; every rank must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return whole tensors on the host; ranks that do not keep them get none but take part."""
    found = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if keep:
            found[name] = full.cpu().contiguous()
    return found


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, laid out as another one."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    # Every rank has the whole: nothing is sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def clip_gradients(weights: Iterable[nn.Parameter | Tensor], limit: float) -> float:
    """Shorten the gradient of all weights together to `limit`, and return its norm before that.

    As :func:`torch.nn.utils.clip_grad_norm_`, for weights of which some are parted over ranks.
    """
    having = [weight for weight in weights if weight.grad is not None]
    parted = [w for w in having if is_parted(w)]
    plain = [w for w in having if not is_parted(w)]
    norms = [
        whole(nn.utils.get_total_norm([w.grad for w in group if w.grad is not None]))
        for group in (plain, parted)
        if group
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in (plain, parted):
        nn.utils.clip_grads_with_norm_(group, limit, norm)
    return float(norm)
