"""The Llama decoder as one loop over layers that we own: bidirectional, prunable, no cache.

The layers are ``transformers``' own modules; attention is called here, because in OFT every token
sees every token, and because pruners need a few attention rows beside the fused kernel. Weights
lie side by side, for one product where a layer makes two or three: the published parameters become
views into a joined matrix."""

from collections.abc import Iterator, Sequence

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

from ..pruning.base import SELECTION, PruningSite
from ..pruning.forward_state import PruningState
from .vision import attend

QKV, GATE_UP = ('q_proj', 'k_proj', 'v_proj'), ('gate_proj', 'up_proj')
_JOINED = 'joined_weight'  # a plain attribute: not a parameter, not in the state dict


def fuse(layers: Sequence[LlamaDecoderLayer]) -> None:
    """Join weights where they are plain matrices; layers may share them. A module that is moved or
    cast afterwards has weights of its own again, and runs unfused."""
    joined: dict[int, Tensor] = {}
    for module, weights in _joinable(layers):
        key = id(weights[0])
        if key not in joined:
            joined[key] = torch.cat([weight.data for weight in weights])
            parts = joined[key].split([len(weight) for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.data = part
        object.__setattr__(module, _JOINED, joined[key])


def reserve(
    layers: Sequence[LlamaDecoderLayer], device: torch.device | str, dtype: torch.dtype
) -> dict[int, Tensor]:
    """Joined matrices for weights that are still to be read, so that no layer is in memory twice:
    id of each of their parameters -> the part of a joined matrix that it must become."""
    places: dict[int, Tensor] = {}
    for module, weights in _joinable(layers):
        rows = [len(weight) for weight in weights]
        joined = torch.empty(sum(rows), weights[0].shape[1], device=device, dtype=dtype)
        places.update(zip(map(id, weights), joined.split(rows), strict=True))
        object.__setattr__(module, _JOINED, joined)
    return places


def _joinable(
    layers: Sequence[LlamaDecoderLayer],
) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    for layer in layers:
        for module, names in ((layer.self_attn, QKV), (layer.mlp, GATE_UP)):
            parts = [module.get_submodule(name) for name in names]
            if all(map(_plain, parts)):
                yield module, [part.weight for part in parts]


def _plain(module: nn.Module) -> bool:
    """Not one that adapters or quantisation replaced."""
    if type(module) is not nn.Linear or module.bias is not None:
        return False
    return type(module.weight) is nn.Parameter and type(module.weight.data) is Tensor


def _joined(module: nn.Module, first: nn.Module, last: nn.Module) -> Tensor | None:
    """None where it is no longer that of the module's weights, or gradients need the parts."""
    joined: Tensor | None = module.__dict__.get(_JOINED)
    if joined is None or torch.is_grad_enabled() or not (_plain(first) and _plain(last)):
        return None
    end = joined.data_ptr() + joined.nbytes - last.weight.nbytes
    same = first.weight.data_ptr() == joined.data_ptr() and last.weight.data_ptr() == end
    return joined if same and first.weight.dtype == joined.dtype else None


def query_key_value(
    attention: LlamaAttention, y: Tensor, only: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, D) -> queries (B, S, heads * d), or of the rows ``only``, int64 (A,); keys and values
    (B, S, kv heads * d)."""
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    weight = _joined(attention, parts[0], parts[2])
    if weight is None:
        q, k, v = parts
        return q(y if only is None else y[:, only]), k(y), v(y)
    rows = [len(part.weight) for part in parts]
    if only is None:
        return F.linear(y, weight).split(rows, dim=-1)
    k, v = F.linear(y, weight[rows[0] :]).split(rows[1:], dim=-1)
    return attention.q_proj(y[:, only]), k, v


def gated_mlp(mlp: LlamaMLP, y: Tensor) -> Tensor:
    """down(act(gate(y)) * up(y)): (B, S, D) -> (B, S, D)."""
    weight = _joined(mlp, mlp.gate_proj, mlp.up_proj)
    if weight is None:
        return mlp(y)
    gate, up = F.linear(y, weight).chunk(2, dim=-1)
    return mlp.down_proj(mlp.act_fn(gate) * up)


def rope(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables (B, S, head_dim) for positions (B, S) or (S,), rotate-half form.

    Angles are computed in float32 and only then cast: rounding the inverse frequencies to
    bfloat16, as ``model.to(torch.bfloat16)`` does to a buffer, moves actions by up to 0.06."""
    exponent = (
        torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    )
    angles = torch.atleast_2d(positions)[..., None].float() * (1.0 / theta**exponent)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, S, d) turned by the tables (B or 1, S, d) of :func:`rope`."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def attention_rows(q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
    """Head-mean attention of the query ``rows``: float32 (R, K)."""
    scores = (q[0][:, rows] @ k[0].transpose(1, 2)) * scale  # [heads, R, S]
    return scores.float().softmax(dim=-1).mean(dim=0)


def logit_rows(layer: LlamaDecoderLayer, x: Tensor, rows: Tensor) -> Tensor:
    """Head-mean products of un-rotated queries and keys: float32 (R, S)."""
    attn = layer.self_attn
    y = layer.input_layernorm(x)[0]
    q = attn.q_proj(y[rows]).unflatten(-1, (-1, attn.head_dim))  # [R, heads, d]
    k = attn.k_proj(y).unflatten(-1, (-1, attn.head_dim)).transpose(0, 1)  # [kv heads, S, d]
    # The mean over heads of q.k is one product of all heads' numbers laid side by side.
    k = k.repeat_interleave(attn.num_key_value_groups, dim=0)
    heads = k.shape[0]
    flat = k.transpose(0, 1).reshape(k.shape[1], -1)
    return (q.flatten(1) @ flat.T).float() * (attn.scaling / heads)


class Decoder(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        theta = self.config.rope_parameters['rope_theta']
        return rope(positions, self.config.head_dim, theta, dtype)


class LanguageModel(nn.Module):
    """:param with_logits: keep ``lm_head``, which only the discrete variant reads."""

    def __init__(self, config: LlamaConfig, with_logits: bool = False) -> None:
        super().__init__()
        self.model = Decoder(config)
        if with_logits:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, x: Tensor, state: PruningState, first: int = 0) -> Tensor:
        """(B, S, D) embeddings, or the output of the layer before ``first`` -> (B, A, D) hidden
        states of the read-out rows, after the final norm. B is 1 where tokens are dropped."""
        count, read = len(self.model.layers), state.layout.readout_positions
        # Only the rows that the head reads are taken through the last layer, a tenth of its work,
        # unless a trace or a site behind it wants the others too.
        whole = state.trace is not None or state.site_after(count - 1) is not None
        x = self.run_layers(x, state, range(first, count), None if whole else read)
        return self.model.norm(x[:, state.rows(read)] if whole else x)

    def run_layers(
        self, x: Tensor, state: PruningState, layers: range, read: Sequence[int] | None = None
    ) -> Tensor:
        """(B, S, D) -> the residual stream (B, S', D) behind the last of ``layers``.
        :param read: original positions of which alone the last layer is computed."""
        if layers.start == 0:
            x = self._prune(x, state, -1)
        positions, cos, sin = None, None, None
        for index in layers:
            if not state.proceed():
                state.interrupted = True
                break
            if state.positions is not positions:  # kept tokens keep their original positions
                positions = state.positions
                cos, sin = self.model.rope(positions, x.dtype)
            layer, site, bias = self.model.layers[index], state.site_after(index), state.bias
            attn = layer.self_attn

            y = layer.input_layernorm(x)
            only = state.rows(read) if read is not None and index == layers[-1] else None
            q, k, v = (
                t.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)  # [B, heads, S, d]
                for t in query_key_value(attn, y, only)
            )
            k = rotated(k, cos, sin)
            if only is None:
                q = rotated(q, cos, sin)
            else:
                x = x[:, only]
                q = rotated(q, cos[:, only], sin[:, only])
            if state.caches_kv:
                with state.stage(SELECTION):
                    k, v = state.with_cached_kv(index, k, v)
            if attn.num_key_value_groups > 1:
                k, v = (t.repeat_interleave(attn.num_key_value_groups, dim=1) for t in (k, v))

            # Attention rows are computed beside the fused kernel, which hands none out.
            attention, rows = None, state.requested_rows(index, 'attention')
            if rows is not None:
                with state.stage(SELECTION):
                    attention = attention_rows(q, k, rows, attn.scaling)
            if site is not None and site.early:
                # What is dropped is spared the rest of the layer. The kept rows still attend to
                # it there: k and v hold every token, and the bias of the layer before is theirs.
                with state.stage(SELECTION):
                    kept = state.decide(site, x, attention)
                    if kept is not None:
                        x, q = x[:, kept], q[:, :, kept]

            y = attend(q, k, v, attn.scaling, bias)
            x = x + attn.o_proj(y.transpose(1, 2).reshape(*x.shape[:2], -1))
            x = x + gated_mlp(layer.mlp, layer.post_attention_layernorm(x))
            if site is not None and not site.early:
                x = self._prune(x, state, index, attention)
            if state.trace is not None:
                state.trace.append(x)
        state.pruner.after_pass(state.memory)
        return x

    def _prune(
        self, x: Tensor, state: PruningState, layer: int, attention: Tensor | None = None
    ) -> Tensor:
        site: PruningSite | None = state.site_after(layer)
        if site is None:
            return x
        with state.stage(SELECTION):
            rows = state.requested_rows(layer, 'logits')
            if rows is not None:
                attention = logit_rows(self.model.layers[layer + 1], x, rows)
            kept = state.decide(site, x, attention)
            return x if kept is None else x[:, kept]
