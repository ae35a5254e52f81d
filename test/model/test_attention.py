"""Attention by hand: softmax of scaled products in float64, number by number; and its gradient."""

import math

import pytest
import torch

from vla_prune_ros.model.vision import attend


def by_hand(q, k, v, scale):
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    for b, h, s in [
        (b, h, s) for b in range(q.shape[0]) for h in range(q.shape[1]) for s in range(q.shape[2])
    ]:
        scores = [scale * float(q[b, h, s] @ key) for key in k[b, h]]
        top = max(scores)
        shares = [math.exp(score - top) for score in scores]
        for share, value in zip(shares, v[b, h], strict=True):
            out[b, h, s] += share / sum(shares) * value.double()
    return out


def tensors(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = (2, 2, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)
    return [torch.randn(shape, generator=draw, dtype=dtype) * 2 for shape in shapes]


@pytest.mark.parametrize('scale', [None, 0.7])
@pytest.mark.parametrize('learning', [False, True])
def test_with_and_without_gradient_it_is_softmax_attention(scale, learning):
    q, k, v = tensors()
    want = by_hand(q, k, v, 8**-0.5 if scale is None else scale)
    got = attend(q.requires_grad_(learning), k, v, scale)
    assert got.requires_grad == learning
    torch.testing.assert_close(got.detach().double(), want, rtol=0, atol=1e-5)


def test_without_gradient_mode_the_fused_kernel_gives_the_same():
    q, k, v = tensors()
    learnt = attend(q.requires_grad_(), k, v)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v), learnt.detach(), rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_small_differences():
    q, k, v = (t[:1, :1, :2, :4].clone().requires_grad_() for t in tensors(torch.float64))
    assert torch.autograd.gradcheck(lambda *given: attend(*given, 0.5), (q, k, v))
