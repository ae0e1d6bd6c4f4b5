"""Attention in pieces against attention written down plainly."""

import pytest
import torch

from sttrain.model import attention
from sttrain.model.attention import FAR, attend
from sttrain.model.layers import Block

B, Q, V, H, d = 3, 5, 9, 4, 8


def draw(dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(B, Q, H, d, generator=g).to(dtype)
    k, v = (torch.randn(B, V, H, d, generator=g).to(dtype) for _ in range(2))
    apart = torch.randint(0, 6, (B, Q, V), generator=g).float()
    apart[:, :, -2:] = FAR
    apart[0, :, 3:] = FAR
    return [q, k, v, torch.rand(H, generator=g) + 0.1], apart


def plain(q, k, v, fall, apart):
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / d**0.5 - fall.double()[:, None, None] * apart[:, None]
    scores = scores.masked_fill(apart[:, None] == FAR, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def with_gradients(function, inputs, apart):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves, apart)
    weights = torch.arange(out.numel()).view_as(out).sin().to(out.dtype)
    (out * weights).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("kept", [0, 1 << 24], ids=["again", "kept"])
@pytest.mark.parametrize("piece", [1, 2 * Q * V * H, 1 << 19], ids=["one", "two", "all"])
def test_outputs_and_gradients_are_those_of_the_plain_formula(monkeypatch, piece, kept):
    monkeypatch.setattr(attention, "_PIECE", piece)
    monkeypatch.setattr(attention, "KEPT", kept)
    inputs, apart = draw()
    for ours, theirs in zip(
        with_gradients(attend, inputs, apart), with_gradients(plain, inputs, apart), strict=True
    ):
        assert torch.allclose(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near():
    inputs, apart = draw(torch.bfloat16)
    for ours, theirs in zip(
        with_gradients(attend, inputs, apart), with_gradients(plain, inputs, apart), strict=True
    ):
        assert torch.allclose(ours.double(), theirs.double(), rtol=0.05, atol=0.05)


def test_what_is_far_reaches_nothing():
    inputs, apart = draw()
    before = with_gradients(attend, inputs, apart)
    inputs[1][:, -2:], inputs[2][:, -2:] = 1e6, -1e6
    for old, new in zip(before, with_gradients(attend, inputs, apart), strict=True):
        assert torch.equal(old, new)


def test_the_operators_keep_the_rules_of_custom_ones():
    """Shapes for the compiler, gradients, no aliases: PyTorch's own checks."""
    inputs, apart = draw()
    leaves = [x.requires_grad_() for x in inputs]
    for keep in (True, False):
        checked = torch.library.opcheck(torch.ops.sttrain.attend.default, (*leaves, apart, keep))
        assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize("local", [True, False])
def test_only_the_outputs_that_are_wanted(local):
    g = torch.Generator().manual_seed(1)
    block = Block(16, 4, 32, local=local)
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_(0, 0.3, generator=g)
    x, keys = torch.randn(2, 7, 16, generator=g), torch.rand(2, 1, 1, 7, generator=g) < 0.7
    keys[..., 0] = True
    apart = torch.randint(0, 5, (2, 1, 7, 7), generator=g).float() * local
    seats = torch.tensor([[4, 1, 1], [0, 6, 2]])
    whole = block(x, keys, apart)
    some = block(x, keys, apart, seats)
    assert torch.allclose(some, whole[torch.arange(2)[:, None], seats], atol=1e-5)


def test_one_token_attends_to_itself():
    block = Block(16, 4, 32, local=True)
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    x = torch.randn(5, 1, 16, generator=torch.Generator().manual_seed(3))
    twice = block(x.expand(-1, 2, -1), None, torch.tensor([[[[0.0, FAR], [FAR, 0.0]]]]))
    assert torch.allclose(block(x, None, torch.zeros(1, 1, 1, 1)), twice[:, :1], atol=1e-5)
