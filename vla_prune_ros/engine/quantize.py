"""Weight-only int8 and int4: 7.8 or 5.0 GB for the published sizes instead of bfloat16's 15.1.

torchao chooses the scales and rounds. Our layers hold the integers and expand them to the
activations' dtype at each call, with operations that every device has."""

from collections.abc import Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ProfileError

KINDS = ('int8', 'int4')
NOTE = 'weights expand to bfloat16 at each use: less memory, slower than bfloat16'
GROUP = 32
CHUNK = 2**17  # weights quantised at a time: small float32 copies leave no holes in the heap
_DECODER = 'language_model.model.layers.'
_TOWERS = ('vision_backbone.', 'projector.')


def require_library() -> ModuleType:
    try:
        import torchao.quantization as library
    except ImportError as error:
        raise ProfileError(
            f'dtypes int8 and int4 need torchao ({str(error).splitlines()[0]})',
            "install the extra: pip install 'vla_prune_ros[quant]'",
        ) from None
    return library


def _rounded(
    weight: Tensor, bits: int, block: tuple[int, ...]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: which, their integers (int8), and one float32 scale per block, flat.
    4-bit scales are rounded to bfloat16 before the weights are."""
    library, top = require_library(), 2 ** (bits - 1)
    grid = library.MappingType.SYMMETRIC_NO_CLIPPING_ERR
    limits = {'quant_min': -top, 'quant_max': top - 1}
    count = max(1, CHUNK // weight[0].numel())
    for begin in range(0, len(weight), count):
        where = slice(begin, begin + count)
        rows = weight[where].float()
        scale, zero = library.choose_qparams_affine(rows, grid, block, torch.int8, **limits)
        scale = scale if bits == 8 else scale.bfloat16().float()
        integers = library.quantize_affine(rows, block, scale, zero, torch.int8, **limits)
        yield where, integers, scale.flatten()


class Int8Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = weight.shape
        self.register_buffer('integers', torch.empty_like(weight, dtype=torch.int8))
        self.register_buffer('scale', weight.new_empty(len(weight), dtype=torch.float32))
        for rows, integers, scale in _rounded(weight, 8, (1, self.in_features)):
            self.integers[rows], self.scale[rows] = integers, scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out); the scale, in float32, follows the product."""
        y = (F.linear(x, self.integers.to(x.dtype)) * self.scale).to(x.dtype)
        return y if self.bias is None else y + self.bias


class Int4Linear(nn.Module):
    """Half a byte per weight and one bfloat16 scale per 32 weights.

    A group is every n-th column, n = in / 32, and a byte holds columns that are in / 2 apart:
    both halves then expand along contiguous memory, three times faster than adjacent columns."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = weight.shape
        groups = self.in_features // GROUP
        strided = weight.view(-1, GROUP, groups)
        pairs = weight.new_empty(len(weight), GROUP // 2, groups, dtype=torch.int8)
        scales = weight.new_empty(len(weight), 1, groups, dtype=torch.bfloat16)
        self.register_buffer('pairs', pairs)
        self.register_buffer('scale', scales)
        for rows, integers, scale in _rounded(strided, 4, (1, GROUP, 1)):
            low, high = integers.chunk(2, dim=1)  # [rows, 16, groups]
            pairs[rows] = (low & 15) | (high << 4)
            scales[rows] = scale.view(-1, 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.expand(x.dtype), self.bias)

    def expand(self, dtype: torch.dtype) -> Tensor:
        rows, half, groups = self.pairs.shape
        out, scale = self.pairs.new_empty(rows, 2, half, groups, dtype=dtype), self.scale.to(dtype)
        torch.mul((self.pairs << 4) >> 4, scale, out=out[:, 0])  # >> keeps the sign
        torch.mul(self.pairs >> 4, scale, out=out[:, 1])
        return out.view(rows, self.in_features)


def quantize_module(model: nn.Module, name: str, kind: str) -> None:
    """Put a quantised layer in the place of the linear layer ``name``, once its weights are there:
    of the decoder, the towers and the projector. ``int4`` is for layers of the decoder whose width
    is a multiple of 32. A quantised layer is not moved or cast afterwards."""
    linear, decoder = model.get_submodule(name), name.startswith(_DECODER)
    if not isinstance(linear, nn.Linear) or not (decoder or name.startswith(_TOWERS)):
        return
    if any(p.is_meta for p in linear.parameters()):
        return
    small = kind == 'int4' and decoder and linear.in_features % GROUP == 0
    parent, _, leaf = name.rpartition('.')
    layer = Int4Linear(linear) if small else Int8Linear(linear)
    setattr(model.get_submodule(parent), leaf, layer)


def parameter_count(model: nn.Module) -> int:
    """Weights of the network, packed ones included, scales not."""
    packed = (m for m in model.modules() if isinstance(m, Int8Linear | Int4Linear))
    plain = sum(p.numel() for p in model.parameters())
    return plain + sum(m.in_features * m.out_features for m in packed)
