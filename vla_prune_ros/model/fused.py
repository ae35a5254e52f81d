"""Weights side by side: one product where a Llama layer makes three, and one where it makes two.

A product of a few hundred rows leaves a large device idle at its end; fewer and larger ones leave
it idle less often. The modules keep their published names and parameters: those become views into
the joined matrix, so that no memory is added and whatever is written to them is seen here.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP

QKV, GATE_UP = ('q_proj', 'k_proj', 'v_proj'), ('gate_proj', 'up_proj')
_JOINED = 'joined_weight'  # a plain attribute: not a parameter, not in the state dict


def fuse(layers: Sequence[LlamaDecoderLayer]) -> None:
    """Join the weights of every layer where they are plain matrices. Layers may share them.

    Do it when the weights are where they will stay: a module that is moved or cast afterwards has
    weights of its own again, and is run like an unfused one.
    """
    known: dict[int, Tensor] = {}
    for module, names in _groups(layers):
        parts = [getattr(module, name) for name in names]
        if not all(_plain(part) for part in parts):
            continue
        weights = [part.weight for part in parts]
        if id(weights[0]) not in known:
            known[id(weights[0])] = _join(weights)
        object.__setattr__(module, _JOINED, known[id(weights[0])])


def reserve(
    layers: Sequence[LlamaDecoderLayer], device: torch.device | str, dtype: torch.dtype
) -> dict[int, Tensor]:
    """Joined matrices for layers whose weights are still to be read: nothing is joined afterwards,
    so that no layer is in memory twice.

    :returns: id of each of their parameters -> the part of a joined matrix that it must become.
    """
    places: dict[int, Tensor] = {}
    for module, names in _groups(layers):
        parts = [getattr(module, name) for name in names]
        if not all(_plain(part) for part in parts):
            continue
        rows = [part.weight.shape[0] for part in parts]
        joined = torch.empty(sum(rows), parts[0].weight.shape[1], device=device, dtype=dtype)
        for part, place in zip(parts, joined.split(rows), strict=True):
            places[id(part.weight)] = place
        object.__setattr__(module, _JOINED, joined)
    return places


def query_key_value(
    attention: LlamaAttention, y: Tensor, only: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, D) -> queries (B, S or A, heads * d), keys and values (B, S, kv heads * d).

    :param only: int64 (A,) rows whose queries alone are wanted.
    """
    weight = _joined(attention, QKV)
    if weight is None:
        seen = y if only is None else y[:, only]
        return attention.q_proj(seen), attention.k_proj(y), attention.v_proj(y)
    rows = [getattr(attention, name).weight.shape[0] for name in QKV]
    if only is None:
        return F.linear(y, weight).split(rows, dim=-1)
    k, v = F.linear(y, weight[rows[0] :]).split(rows[1:], dim=-1)
    return attention.q_proj(y[:, only]), k, v


def gated_mlp(mlp: LlamaMLP, y: Tensor) -> Tensor:
    """down(act(gate(y)) * up(y)): (B, S, D) -> (B, S, D)."""
    weight = _joined(mlp, GATE_UP)
    if weight is None:
        return mlp(y)
    gate, up = F.linear(y, weight).chunk(2, dim=-1)
    return mlp.down_proj(mlp.act_fn(gate) * up)


def _groups(
    layers: Sequence[LlamaDecoderLayer],
) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    for layer in layers:
        yield layer.self_attn, QKV
        yield layer.mlp, GATE_UP


def _plain(module: nn.Module) -> bool:
    """A linear layer of torch without bias; not one that adapters or quantisation replaced."""
    if type(module) is not nn.Linear or module.bias is not None:
        return False
    return type(module.weight) is nn.Parameter and type(module.weight.data) is Tensor


def _join(weights: Sequence[nn.Parameter]) -> Tensor:
    joined = torch.cat([weight.data for weight in weights])
    parts = joined.split([len(weight) for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part
    return joined


def _joined(module: nn.Module, names: Sequence[str]) -> Tensor | None:
    """The joined matrix, where it is still that of the module's own weights.

    Not where gradients are wanted: they belong to the parts.
    """
    joined: Tensor | None = module.__dict__.get(_JOINED)
    if joined is None or torch.is_grad_enabled():
        return None
    first, last = (getattr(module, name) for name in (names[0], names[-1]))
    if not (_plain(first) and _plain(last)):
        return None
    end = joined.data_ptr() + joined.nbytes - last.weight.nbytes
    same = first.weight.data_ptr() == joined.data_ptr() and last.weight.data_ptr() == end
    return joined if same and first.weight.dtype == joined.dtype else None
