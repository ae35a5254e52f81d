"""What an object remembers from query to query, as plain data and as bytes that run no code."""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..errors import DataError


class Stateful:
    """Its state is the attributes named in ``state_names``: each holds what :func:`pack` takes, a
    deque of such, or another :class:`Stateful`. What every query sets anew is no state."""

    state_names: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        """For :meth:`load_state` of an object that was built alike."""
        values = {name: getattr(self, name) for name in self.state_names}
        return {n: v.state() if isinstance(v, Stateful) else v for n, v in values.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in self.state_names:
            mine = getattr(self, name)
            if isinstance(mine, Stateful):
                mine.load_state(state[name])
            elif isinstance(mine, deque):
                setattr(self, name, deque(state[name], mine.maxlen))
            else:
                setattr(self, name, state[name])


def pack(value: Any) -> bytes:
    """Nested dicts, tuples, lists and deques (as lists) of plain values, tensors and arrays: the
    length of a JSON text in 8 bytes, the text, and its tensors as safetensors."""
    tensors: dict[str, Tensor] = {}
    keys: dict[int, str] = {}  # what stands in two places is stored once

    def key_of(owner: object, tensor: Tensor) -> str:
        if id(owner) not in keys:
            keys[id(owner)] = str(len(keys))
            tensors[keys[id(owner)]] = tensor.detach().cpu().clone().contiguous()
        return keys[id(owner)]

    def encode(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return {'tensor': key_of(value, value), 'device': str(value.device)}
        if isinstance(value, np.ndarray):
            return {'array': key_of(value, torch.from_numpy(np.array(value, order='C')))}
        if isinstance(value, Mapping):
            return {'dict': [[encode(k), encode(v)] for k, v in value.items()]}
        if isinstance(value, tuple):
            return {'tuple': [encode(v) for v in value]}
        if isinstance(value, (list, deque)):
            return [encode(v) for v in value]
        raise DataError(
            f'a state holds {type(value).__name__!r}',
            'a state is made of plain values, arrays and tensors in dicts, tuples and lists',
        )

    text = json.dumps(encode(value)).encode()
    return len(text).to_bytes(8, 'little') + text + safetensors.torch.save(tensors)


def unpack(data: bytes) -> Any:
    end = 8 + int.from_bytes(data[:8], 'little')
    tensors = safetensors.torch.load(data[end:])
    arrays: dict[str, np.ndarray] = {}  # what stood in two places does so again

    def decode(value: Any) -> Any:
        match value:
            case list():
                return [decode(v) for v in value]
            case {'tensor': key, 'device': device}:
                return tensors[key].to(device)
            case {'array': key}:
                return arrays.setdefault(key, tensors[key].numpy())
            case {'dict': items}:
                return {decode(k): decode(v) for k, v in items}
            case {'tuple': items}:
                return tuple(map(decode, items))
            case dict():
                raise ValueError(f'unknown kind of value: {sorted(value)}')
        return value

    return decode(json.loads(data[8:end]))
