"""What a query must cost: its floating-point operations in closed form, two per multiply-add, and
how fast the machine can multiply and move bytes at most.

Counted are the matrix products, patch convolutions and attention that the engine runs, over the
tokens that are kept in each layer. Not counted: norms, activations and softmax (below 1 %), what
selection computes, and keys that a method shows again after it dropped their tokens.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from ...model.openvla import ModelSize
from ...model.vision import PATCH, PATCHES, TowerSize
from ...pruning.layout import Layout

PIXELS = 3 * PATCH * PATCH


def policy_flops(
    size: ModelSize, layout: Layout, kept: Mapping[str, int], early: Collection[str] = ()
) -> int | None:
    """One query: towers, projectors, decoder and head; None for a diffusion head, whose passes may
    each keep other tokens.

    :param kept: site name -> visual tokens that are kept there, all cameras together.
    :param early: names of the sites at which the selection comes before the layer's output.
    """
    if size.head == 'diffusion':
        return None
    width = size.text.hidden_size
    state = size.proprio_dim * width + width * width if size.proprio_dim else 0
    layers = size.text.num_hidden_layers
    total = vision_flops(size, len(layout.cameras)) + 2 * state + head_flops(size, layout.slots)
    for layer, rows in enumerate(rows_per_layer(layout, layers, kept)):
        site, queries, out = f'after_L{layer}', rows, rows
        if site in early and site in kept:
            out = layout.length - layout.visual + kept[site]
        elif layer == layers - 1 and site not in kept:
            queries = out = layout.slots
        total += decoder_layer_flops(size, rows, queries, out)
    return total


def rows_per_layer(layout: Layout, layers: int, kept: Mapping[str, int]) -> list[int]:
    """Sequence length per decoder layer; ``before_L0`` acts from layer 0, ``after_L3`` from 4."""
    rows, visual = [], layout.visual
    for layer in range(layers):
        site = f'after_L{layer - 1}' if layer else 'before_L0'
        visual = kept.get(site, visual)
        rows.append(layout.length - layout.visual + visual)
    return rows


def decoder_layer_flops(size: ModelSize, rows: int, queries: int, out: int) -> int:
    """One Llama layer over ``rows`` tokens: four projections, attention, gated MLP. Queries are
    formed of ``queries`` rows, the output is computed of ``out``."""
    text = size.text
    width, heads = text.hidden_size, text.num_attention_heads * text.head_dim
    grouped = text.num_key_value_heads * text.head_dim
    per_output = width * heads + 3 * width * text.intermediate_size + 2 * rows * heads
    return 2 * (rows * 2 * width * grouped + queries * width * heads + out * per_output)


def vision_flops(size: ModelSize, cameras: int) -> int:
    """Both towers up to the second-to-last block, and the projector."""
    film = size.text.hidden_size if size.film else 0
    towers = _tower(size.dino, cameras, film) + _tower(size.siglip, cameras, film)
    inputs, width = size.dino.width + size.siglip.width, size.text.hidden_size
    projector = 4 * inputs * inputs + 4 * inputs * width + width * width
    return towers + 2 * cameras * PATCHES * projector


def reference_flops(size: ModelSize, layout: Layout) -> int:
    """The dense query as :class:`.models.ReferenceForward` runs it: the towers through their last
    block, all rows of the last decoder layer, and ``lm_head`` over all rows."""
    film, cameras, towers = size.text.hidden_size if size.film else 0, len(layout.cameras), 0
    for tower in (size.dino, size.siglip):
        whole = replace(tower, depth=tower.depth + 1)
        towers += cameras * _tower(whole, 1, film) - _tower(tower, cameras, film)
    rows = layout.length
    read = decoder_layer_flops(size, rows, layout.slots, layout.slots)
    last = decoder_layer_flops(size, rows, rows, rows) - read
    lm_head = 2 * rows * size.text.hidden_size * size.text.vocab_size
    return policy_flops(size, layout, {}) + towers + last + lm_head


def head_flops(size: ModelSize, slots: int) -> int:
    """L1: the residual MLP over each step's slots. Discrete: ``lm_head`` over the read-out."""
    width = size.text.hidden_size
    if size.head == 'discrete':
        return 2 * slots * width * size.text.vocab_size
    steps, inputs = slots // size.action_dim, size.action_dim * width
    return 2 * steps * (inputs * width + 2 * width * width + width * size.action_dim)


def count_kept(by_site: Mapping[str, Mapping[str, Iterable[bool]]]) -> dict[str, int]:
    """``Inference.kept_by_site`` -> site name -> visual tokens of all cameras."""
    return {site: sum(int(sum(m)) for m in masks.values()) for site, masks in by_site.items()}


def _tower(tower: TowerSize, cameras: int, film: int) -> int:
    rows, width, blocks = PATCHES + tower.prefix, tower.width, tower.depth - 1
    linear = 4 * width * width + 2 * width * tower.mlp_width
    block = cameras * rows * (linear + 2 * rows * width) + 2 * film * width
    return 2 * (cameras * PATCHES * PIXELS * width + blocks * block)


ROWS, INNER, OUTER = 600, 4096, 11008  # the decoder's largest product at 7B shape
COPY_BYTES = 256 * 2**20  # beyond common caches
REPEATS = 5


@dataclass(frozen=True)
class Roofline:
    """1e12 operations per second in one large product, and 1e9 bytes that a copy moves."""

    tflops: float
    gb_per_s: float

    def least_ms(self, flops: float, weight_bytes: float) -> float:
        """No query can be faster: all its products at full rate, or every weight read once."""
        return 1e3 * max(flops / (1e12 * self.tflops), weight_bytes / (1e9 * self.gb_per_s))


def measure_roofline(device: torch.device, dtype: torch.dtype) -> Roofline:
    def best_s(work: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS + 1):  # the first one warms up
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    wait = partial(torch.cuda.synchronize, device) if device.type == 'cuda' else lambda: None
    a = torch.randn(ROWS, INNER, device=device).to(dtype)
    b = torch.randn(OUTER, INNER, device=device).to(dtype)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = best_s(lambda: torch.nn.functional.linear(a, b))
    copy = best_s(lambda: target.copy_(source))
    return Roofline(2e-12 * ROWS * INNER * OUTER / product, 2e-9 * COPY_BYTES / copy)
