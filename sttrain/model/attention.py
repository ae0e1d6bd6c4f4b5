"""Attention whose scores fall with distance; on a CPU in pieces that stay in the cache.

PyTorch's fused kernels give no gradient to what is added to the scores, and the slope of the fall
is learnt; its plain products write every score to memory several times. On a CPU the pieces below
stay in the cache: 9.5 and 20 ms, forward and backward, where the plain products take 40 and 47 and
the fused kernel, without the slopes, 15 and 24 (8 patches of 256 sites, 8 heads of 32, float32, one
core). The weights are kept for the backward pass where they are few, else computed again.

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


KEPT: Final = 1 << 24
"""Most weights of a layer that are kept: 64 MiB in float32."""


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
        few = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1] <= KEPT
        # Compiled code knows no sizes, and so would not know what is kept.
        keep = not torch.compiler.is_compiling() and torch.is_grad_enabled() and few
        found: Tensor = _attend(q, k, v, slopes, apart.expand(len(q), -1, -1), keep)[0]
        return found.flatten(2)
    bias = -apart[:, None] if fall is None else apart[:, None] * -fall[:, None, None]
    bias = bias.clamp(min=_LEAST).to(q.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)


@torch.library.custom_op("sttrain::attend", mutates_args=(), device_types="cpu")
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    fall: Tensor,
    apart: Tensor,
    keep: bool,  # noqa: FBT001 - an operator's argument
) -> tuple[Tensor, Tensor]:
    """Return the attention output (B, Q, H, d) on a CPU, and the weights (B, H, Q, V) or none."""
    out, scratch = torch.empty(q.shape, dtype=q.dtype), _Scratch()
    kept = torch.empty(_kept_shape(q, k, keep=keep), dtype=q.dtype)
    for part in _pieces(q, k):
        weights = scratch.weights(_heads(q[part]), _heads(k[part]), fall, apart[part]).to(q.dtype)
        if keep:
            kept[part] = weights.view(kept[part].shape)
        out[part] = _sites(torch.bmm(weights, _heads(v[part])), out[part])
    return out, kept


@torch.library.custom_op("sttrain::attend_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    grad: Tensor,
    out: Tensor,
    kept: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    fall: Tensor,
    apart: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys, values and slopes on a CPU.

    Dao et al. 2022, algorithm 4: with P the weights, O the output and g the gradient, dV = P' g
    and dS = P (g V' - sum(g O)).
    """
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    dfall, scale, scratch = torch.zeros_like(fall), q.shape[-1] ** -0.5, _Scratch()
    for part in _pieces(q, k):
        n, qs, ks, gs = len(q[part]), _heads(q[part]), _heads(k[part]), _heads(grad[part])
        if len(kept):
            weights = kept[part].flatten(0, 1)
        else:
            weights = scratch.weights(qs, ks, fall, apart[part])
        dv[part] = _sites(torch.bmm(weights.to(q.dtype).transpose(1, 2), gs), dv[part])
        inner = _heads(grad[part].float() * out[part].float()).sum(-1, keepdim=True)
        ds = scratch.product("scores", gs, _heads(v[part])).sub_(inner).mul_(weights)
        # What is far has the weight 0, so that its distance meets a 0.
        dfall -= torch.bmm(ds.view(n, len(fall), -1), apart[part].reshape(n, -1, 1)).sum((0, 2))
        small = ds.to(q.dtype)
        dq[part] = _sites(torch.bmm(small, ks).mul_(scale), dq[part])
        dk[part] = _sites(torch.bmm(small.transpose(1, 2), qs).mul_(scale), dk[part])
    return dq, dk, dv, dfall


def _kept_shape(q: Tensor, k: Tensor, *, keep: bool) -> tuple[int, ...]:
    return (q.shape[0], q.shape[2], q.shape[1], k.shape[1]) if keep else (0,)


class _Scratch:
    """Memory of the scores and weights of a piece, used again for the next one."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def weights(self, q: Tensor, k: Tensor, fall: Tensor, apart: Tensor) -> Tensor:
        """Return the weights (n * H, Q, V) float32 of attention."""
        scale = q.shape[-1] ** -0.5
        n, H, Q, V = len(apart), len(fall), *apart.shape[1:]
        away, down = apart[:, None], -fall[:, None, None]
        if q.dtype == torch.float32:
            scores = self._take("scores", (n * H, Q, V))
            torch.mul(away, down, out=scores.view(n, H, Q, V))
            scores.baddbmm_(q, k.transpose(1, 2), alpha=scale)
        else:
            scores = self.product("scores", q * scale, k)
            scores.view(n, H, Q, V).addcmul_(away, down)
        return torch.softmax(scores, dim=-1, out=self._take("weights", scores.shape))

    def product(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return a b' (n * H, Q, V) in float32."""
        out = self._take(name, (len(a), a.shape[1], b.shape[1]))
        if a.dtype == torch.float32:
            return torch.bmm(a, b.transpose(1, 2), out=out)
        return out.copy_(torch.bmm(a, b.transpose(1, 2)))

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape[1:] != shape[1:] or len(kept) < shape[0]:
            kept = self._kept[name] = torch.empty(shape)
        return kept[: shape[0]]


def _pieces(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Yield patches whose scores fit the cache, at least one at a time."""
    B, Q, H, _ = q.shape
    n = max(1, _PIECE // max(1, Q * k.shape[1] * H))
    for first in range(0, B, n):
        yield slice(first, min(first + n, B))


def _heads(x: Tensor) -> Tensor:
    """Return (n, V, H, d) as (n * H, V, d); a single patch is not copied."""
    if len(x) == 1:
        return x[0].transpose(0, 1)
    return x.transpose(1, 2).contiguous().flatten(0, 1)


def _sites(x: Tensor, like: Tensor) -> Tensor:
    """Return (n * H, V, d) as (n, V, H, d)."""
    n, V, H, d = like.shape
    return x.view(n, H, V, d).transpose(1, 2)


def _fake(
    q: Tensor,
    k: Tensor,
    _v: Tensor,
    _fall: Tensor,
    _apart: Tensor,
    keep: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    return out, q.new_empty(_kept_shape(q, k, keep=keep))


def _fake_backward(
    _grad: Tensor, _out: Tensor, _kept: Tensor, *inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, fall, _ = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
    return q, k, v, fall


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *inputs[:-1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*_attend_backward(grad, *ctx.saved_tensors), None, None)


_attend.register_fake(_fake)
_attend_backward.register_fake(_fake_backward)
_attend.register_autograd(_differentiate, setup_context=_remember)


@register_flop_formula(torch.ops.sttrain.attend)
def _flops(q: Any, k: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401 - shapes
    B, Q, H, d = q
    return int(4 * B * Q * H * k[1] * d)


@register_flop_formula(torch.ops.sttrain.attend_backward)
def _flops_backward(_grad: Any, _out: Any, _kept: Any, q: Any, k: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    # Twice the forward pass; where weights are computed again, that is no work of the model's.
    return 2 * _flops(q, k)
