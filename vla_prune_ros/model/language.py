"""Weights side by side: one product where a Llama layer makes three, and one where it makes two.

A product of a few hundred rows leaves a large device idle at its end; fewer and larger ones leave
it idle less often. The modules keep their published names and parameters: those become views into
the joined matrix, so that no memory is added and whatever is written to them is seen here.

The Llama decoder as a loop over layers that we own: bidirectional, prunable, no cache.

The layers are ``transformers``' own modules (weights, norms, MLP); attention is called here,
because OFT needs every token to see every token, and because pruners need a few attention rows
beside the fused kernel. Reference: openvla-oft with its transformers fork, whose SDPA class drops
the causal mask.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    rotate_half,
)

from ..pruning.base import SELECTION, PruningSite, Stage
from ..pruning.forward_state import PruningState
from .attention import attend

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


Choose = Callable[[Tensor | None], Tensor | None]
"""Attention rows, where some were asked for -> int64 rows that stay; None: all."""


def rope(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables (B, S, head_dim) for integer positions (B, S), rotate-half form;
    (1, S, head_dim) for (S,).

    Angles are computed in float32 and only then cast: rounding the inverse frequencies to
    bfloat16, as ``model.to(torch.bfloat16)`` does to a buffer, moves normalised actions by up to
    0.06.
    """
    exponent = (
        torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    )
    angles = torch.atleast_2d(positions)[..., None].float() * (1.0 / theta**exponent)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def attention_rows(q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
    """Head-mean attention of a few query rows: float32 (R, K).

    :param q: (1, heads, S, d) rotated queries.
    :param k: (1, heads, K, d) rotated keys.
    :param rows: int64 (R,) rows of the current sequence.
    """
    scores = (q[0][:, rows] @ k[0].transpose(1, 2)) * scale  # [heads, R, S]
    return scores.float().softmax(dim=-1).mean(dim=0)


def logit_rows(layer: LlamaDecoderLayer, x: Tensor, rows: Tensor) -> Tensor:
    """Head-mean products of un-rotated queries and keys that ``layer`` would form: float32 (R, S).

    :param x: (1, S, D) what goes into the layer.
    :param rows: int64 (R,) rows of the current sequence.
    """
    attn = layer.self_attn
    y = layer.input_layernorm(x)[0]
    q = attn.q_proj(y[rows]).unflatten(-1, (-1, attn.head_dim))  # [R, heads, d]
    k = attn.k_proj(y).unflatten(-1, (-1, attn.head_dim)).transpose(0, 1)  # [kv heads, S, d]
    # The mean over heads of q.k is one product of all heads' numbers laid side by side.
    k = k.repeat_interleave(attn.num_key_value_groups, dim=0)
    heads = k.shape[0]
    flat = k.transpose(0, 1).reshape(k.shape[1], -1)
    return (q.flatten(1) @ flat.T).float() * (attn.scaling / heads)


def by_head(x: Tensor, head_dim: int) -> Tensor:
    """(B, S, heads * d) -> (B, heads, S, d)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, S, d) turned by the tables (B or 1, S, d) of :func:`rope`."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def decoder_layer(
    layer: LlamaDecoderLayer,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    walk: PruningState,
    rows: Tensor | None = None,
    stage: Stage = nullcontext,
    only: Tensor | None = None,
    bias: Tensor | None = None,
    choose: Choose | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One layer, unmasked. (B, S, D) -> (B, S, D), and the asked attention rows (R, S).

    :param choose: asked which rows stay, before the output is computed: (B, S', D).
    :param only: int64 (A,) rows of which alone the output is computed: (B, A, D); no attention
        rows can be asked for then.
    :param bias: see :func:`.attention.attend`.
    """
    attn = layer.self_attn
    y = layer.input_layernorm(x)
    q, k, v = (by_head(t, attn.head_dim) for t in query_key_value(attn, y, only))
    k = rotated(k, cos, sin)  # [B, heads, S, d]
    if only is not None:
        x, cos, sin = (t[:, only] for t in (x, cos, sin))
    q = rotated(q, cos, sin)
    if walk.caches_kv:
        with stage(SELECTION):
            k, v = walk.with_cached_kv(attn.layer_idx, k, v)
    k, v = (
        t.repeat_interleave(attn.num_key_value_groups, dim=1)
        if attn.num_key_value_groups > 1
        else t
        for t in (k, v)
    )
    seen = None
    if rows is not None:
        with stage(SELECTION):
            seen = attention_rows(q, k, rows, attn.scaling)
    if choose is not None:
        with stage(SELECTION):
            stay = choose(seen)
            if stay is not None:
                x, q = x[:, stay], q[:, :, stay]
    y = attend(q, k, v, attn.scaling, bias)
    x = x + attn.o_proj(y.transpose(1, 2).reshape(*x.shape[:2], -1))
    return x + gated_mlp(layer.mlp, layer.post_attention_layernorm(x)), seen


class Decoder(nn.Module):
    """Embedding table, layers and final norm under the published names."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class LanguageModel(nn.Module):
    """The decoder, run from multimodal embeddings to the hidden states that the head reads.

    :param with_logits: keep ``lm_head``, which only the discrete variant reads.
    """

    def __init__(self, config: LlamaConfig, with_logits: bool = False) -> None:
        super().__init__()
        self.model = Decoder(config)
        if with_logits:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        x: Tensor,
        walk: PruningState,
        trace: list[Tensor] | None = None,
        stage: Stage = nullcontext,
    ) -> Tensor:
        """(1, S, D) embeddings -> (1, A, D) hidden states of the read-out rows, after the final
        norm.

        :param walk: says at each site which rows stay; it holds the survivors afterwards.
        :param trace: collects the residual stream (1, S', D) behind every layer and its pruning.
        :param stage: times the pruner's share as ``'selection'``.
        """
        read = walk.layout.readout_positions
        if trace is not None or walk.site_after(len(self.model.layers) - 1) is not None:
            x = self.walk(x, walk, trace, stage)
            return self.model.norm(x[:, walk.rows(read)])
        return self.model.norm(self.walk(x, walk, stage=stage, read=read))

    def read_out(
        self, x: Tensor, walk: PruningState, bias: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """The same as :meth:`forward` of a dense walk, (B, S, D) -> (B, A, D), for training: the
        last layer is computed for the rows that are read, which is a tenth of its work.

        :param walk: its positions may be (B, S), where they differ between the samples.
        :param bias: of the keys in every layer, see :func:`.attention.attend`.
        :param first: layer to begin with, where ``x`` is the output of the one before.
        """
        cos, sin = self._rope(walk.positions, x.dtype)
        only = walk.rows(walk.layout.readout_positions)
        *layers, last = self.model.layers[first:]
        for layer in layers:
            x, _ = decoder_layer(layer, x, cos, sin, walk, bias=bias)
        x, _ = decoder_layer(last, x, cos, sin, walk, only=only, bias=bias)
        return self.model.norm(x)

    def first_layers(self, x: Tensor, walk: PruningState, count: int) -> Tensor:
        """(B, S, D) -> (B, S, D) behind ``count`` layers, for training; nothing is dropped."""
        cos, sin = self._rope(walk.positions, x.dtype)
        for layer in self.model.layers[:count]:
            x, _ = decoder_layer(layer, x, cos, sin, walk)
        return x

    def walk(
        self,
        x: Tensor,
        walk: PruningState,
        trace: list[Tensor] | None = None,
        stage: Stage = nullcontext,
        proceed: Callable[[int], bool] = lambda layer: True,
        read: Sequence[int] | None = None,
    ) -> Tensor:
        """The residual stream (1, S', D) behind the last layer; see :meth:`forward`.

        :param proceed: asked before each layer; False ends the walk there.
        :param read: original positions of which alone the last layer is computed.
        """
        cos, sin, at = None, None, None
        x = self._prune(walk, -1, x, None, stage)
        for index, layer in enumerate(self.model.layers):
            if not proceed(index):
                break
            if walk.positions is not at:
                at = walk.positions
                cos, sin = self._rope(at, x.dtype)
            rows = _asked(walk, index, 'attention')
            only = None
            if read is not None and index == len(self.model.layers) - 1:
                only = walk.rows(read)
            site = walk.site_after(index)
            choose = partial(walk.decide, site, x) if site and site.early else None
            x, seen = decoder_layer(layer, x, cos, sin, walk, rows, stage, only, walk.bias, choose)
            if choose is None:
                x = self._prune(walk, index, x, seen, stage)
            if trace is not None:
                trace.append(x)
        walk.finish()
        return x

    def _rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        config = self.model.config
        return rope(positions, config.head_dim, config.rope_parameters['rope_theta'], dtype)

    def _prune(
        self, walk: PruningState, layer: int, x: Tensor, seen: Tensor | None, stage: Stage
    ) -> Tensor:
        site = walk.site_after(layer)
        if site is None:
            return x
        with stage(SELECTION):
            rows = _asked(walk, layer, 'logits')
            if rows is not None:
                seen = logit_rows(self.model.layers[layer + 1], x, rows)
            stay = walk.decide(site, x, seen)
            return x if stay is None else x[:, stay]


def _asked(walk: PruningState, layer: int, scores: str) -> Tensor | None:
    site: PruningSite | None = walk.site_after(layer)
    if site is None or site.rows is None or site.scores != scores:
        return None
    return walk.rows(site.rows(walk.layout))
