"""The parts of a policy's forward pass for several samples at once, for training."""

from dataclasses import replace

import torch
from torch import Tensor

from ...model.openvla import OpenVLAOFT
from ...profiles import Profile
from ...pruning.forward_state import PruningState
from ...pruning.layout import Layout
from ...pruning.methods.baselines import Dense


def visual_tokens(policy: OpenVLAOFT, pixels: Tensor, prompts: Tensor) -> Tensor:
    """Visual tokens (B, C, 256, D) of pixels (B, C, 6, 224, 224) and prompts int64 (B, P)."""
    cameras, condition = pixels.shape[1], policy.condition(prompts)
    if condition is not None:
        condition = condition.repeat_interleave(cameras, 0)
    features = policy.vision_backbone.features(pixels.flatten(0, 1), condition)
    return policy.projector(features).unflatten(0, (-1, cameras))


def embed(
    policy: OpenVLAOFT, profile: Profile, visual: Tensor, prompts: Tensor, state: Tensor
) -> tuple[Tensor, Layout]:
    """Sequences (B, S, D) of visual tokens (B, C, 256, D), prompts and states (B, 0 or P)."""
    layout = policy.layout(profile.cameras, prompts.shape[1], profile.chunk)
    known = state if state.shape[1] else None
    return policy.embed(visual.flatten(1, 2), prompts, known, layout), layout


def dense_state(layout: Layout, device: torch.device) -> PruningState:
    positions = torch.arange(layout.length, device=device)
    return PruningState(layout=layout, pruner=Dense(), positions=positions)


def read_out(policy: OpenVLAOFT, x: Tensor, layout: Layout) -> Tensor:
    """(B, S, D) -> (B, A, D), the rows that the head reads, with every visual token."""
    return policy.language_model(x, dense_state(layout, x.device))


def kept_read_out(
    policy: OpenVLAOFT,
    x: Tensor,
    layout: Layout,
    kept_ids: Tensor,
    rows: Tensor,
    *,
    bias: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """:func:`read_out` where R rows stand for the visual tokens, each at the position of its
    token.

    :param x: (B, S, D) behind ``first`` layers. :param kept_ids: int64 (B, R), visual tokens.
    :param rows: (B, R, D), what stands there. :param bias: of the keys, (B, 1, 1, 1 + R + ...).
    """
    everything = torch.arange(layout.length, device=x.device).expand(len(x), -1)
    rest = slice(1 + layout.visual, None)
    positions = torch.cat([everything[:, :1], 1 + kept_ids, everything[:, rest]], dim=1)
    kept_layout = replace(layout, cameras=('kept',), patches=kept_ids.shape[1])
    state = PruningState(layout=kept_layout, pruner=Dense(), positions=positions, bias=bias)
    x = torch.cat([x[:, :1], rows, x[:, rest]], dim=1)
    return policy.language_model(x, state, first)
