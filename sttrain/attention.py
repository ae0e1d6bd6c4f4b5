"""Attention whose scores fall with distance; on a CPU in pieces that stay in the cache.

PyTorch's fused kernels give no gradient to what is added to the scores, and the slope of the fall
is learnt; its plain products write every score to memory. On a CPU the pieces below are computed
twice instead, forward and backward, and never leave the cache: 9.5 and 20 ms where the plain
products take 40 and 47 and the fused kernel, without the slopes, 15 and 24 (8 patches of 256 sites,
8 heads of 32, float32, one core).

Letters: B batch, Q queries, V keys, H heads, d width of a head, n patches of a piece.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import register_flop_formula

FAR: Final = 1e30
"""Distance of what may not be attended to: its weight is exactly 0."""
_LEAST: Final = -3e4
"""Least bias of the fused kernels; half precision holds it."""
_PIECE: Final = 1 << 19
"""Scores of a piece: 2 MiB in float32, half a megabyte a core beyond the second-level cache."""


def attend(q: Tensor, k: Tensor, v: Tensor, fall: Tensor | None, apart: Tensor) -> Tensor:
    """Return the attention output (B, Q, H * d).

    Parameters
    ----------
    q
        (B, Q, H, d) queries.
    k, v
        (B, V, H, d) keys and values.
    fall
        (H,) float32, how much a head's scores fall per unit of distance; None for 1 in all.
    apart
        (B or 1, Q, V) float32 distances, :data:`FAR` where a key may not be attended to.
    """
    if q.device.type == "cpu":
        slopes = apart.new_ones(q.shape[2]) if fall is None else fall
        found: Tensor = _attend(q, k, v, slopes, apart.expand(len(q), -1, -1))
        return found.flatten(2)
    bias = -apart[:, None] if fall is None else apart[:, None] * -fall[:, None, None]
    bias = bias.clamp(min=_LEAST).to(q.dtype)
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(*heads, attn_mask=bias).transpose(1, 2).flatten(2)


@torch.library.custom_op("sttrain::attend", mutates_args=(), device_types="cpu")
def _attend(q: Tensor, k: Tensor, v: Tensor, fall: Tensor, apart: Tensor) -> Tensor:
    """Return the attention output (B, Q, H, d) on a CPU."""
    out = torch.empty(q.shape, dtype=q.dtype)
    for part in _pieces(q, k):
        weights = _weights(_heads(q[part]), _heads(k[part]), fall, apart[part])
        out[part] = _sites(torch.bmm(weights.to(q.dtype), _heads(v[part])), out[part])
    return out


@torch.library.custom_op("sttrain::attend_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, fall: Tensor, apart: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys, values and slopes on a CPU.

    The weights are computed again (Dao et al. 2022, algorithm 4): with P the weights, O the output
    and g the gradient, dV = P' g and dS = P (g V' - sum(g O)).
    """
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    dfall, scale = torch.zeros_like(fall), q.shape[-1] ** -0.5
    for part in _pieces(q, k):
        n, qs, ks, gs = len(q[part]), _heads(q[part]), _heads(k[part]), _heads(grad[part])
        weights = _weights(qs, ks, fall, apart[part])
        dv[part] = _sites(torch.bmm(weights.to(q.dtype).transpose(1, 2), gs), dv[part])
        ds = torch.bmm(gs, _heads(v[part]).transpose(1, 2)).float()
        inner = _heads(grad[part].float() * out[part].float()).sum(-1, keepdim=True)
        ds.sub_(inner).mul_(weights)
        # What is far has the weight 0, so that its distance meets a 0.
        dfall -= torch.bmm(ds.view(n, len(fall), -1), apart[part].reshape(n, -1, 1)).sum((0, 2))
        small = ds.to(q.dtype)
        dq[part] = _sites(torch.bmm(small, ks).mul_(scale), dq[part])
        dk[part] = _sites(torch.bmm(small.transpose(1, 2), qs).mul_(scale), dk[part])
    return dq, dk, dv, dfall


def _pieces(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Yield patches whose scores fit the cache, at least one at a time."""
    B, Q, H, _ = q.shape
    n = max(1, _PIECE // max(1, Q * k.shape[1] * H))
    for first in range(0, B, n):
        yield slice(first, min(first + n, B))


def _heads(x: Tensor) -> Tensor:
    """Return (n, V, H, d) as (n * H, V, d), in one piece of memory."""
    return x.transpose(1, 2).contiguous().flatten(0, 1)


def _sites(x: Tensor, like: Tensor) -> Tensor:
    """Return (n * H, V, d) as (n, V, H, d)."""
    n, V, H, d = like.shape
    return x.view(n, H, V, d).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, fall: Tensor, apart: Tensor) -> Tensor:
    """Return the weights (n * H, Q, V) float32 of attention."""
    scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)).float()
    per_head = scores.view(len(apart), len(fall), *scores.shape[1:])
    per_head.addcmul_(apart[:, None], fall[:, None, None], value=-1)
    return torch.softmax(scores, dim=-1)


def _fake(q: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def _fake_backward(
    _grad: Tensor, _out: Tensor, *inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, fall, _ = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
    return q, k, v, fall


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(output, *inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*_attend_backward(grad, *ctx.saved_tensors), None)


_attend.register_fake(_fake)
_attend_backward.register_fake(_fake_backward)
_attend.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.sttrain.attend)
def _flops(q: Any, k: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401 - shapes
    B, Q, H, d = q
    return int(4 * B * Q * H * k[1] * d)


@register_flop_formula(torch.ops.sttrain.attend_backward)
def _flops_backward(_grad: Any, _out: Any, q: Any, k: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    # Twice the forward pass; that the weights are computed again is no work of the model's.
    return 2 * _flops(q, k)
