"""A stand-in for CUDA graphs on a CPU: records torch's operators and runs them again.

It keeps to the rules of a graph: replays know nothing of Python, tensors from before the recording
are read and written where they are, and whatever needs the host while it runs is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
HOST = {  # a number that Python reads, a shape that the data decide, numbers from Python
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.lift_fresh.default,
}


class NotStatic(Exception):
    """The recorded code needs the host."""


class Tape(TorchDispatchMode):
    """What was called, with which tensors, and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it and write it down."""
        masks = func is aten.index.Tensor and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if func in HOST or masks:
            raise NotStatic(str(func))
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, out))
        return out

    def replay(self, outputs: Any) -> None:
        """Run all of it again, and leave the results in the tensors of ``outputs``."""
        now: dict[int, Tensor] = {}  # id of a recorded tensor -> its successor

        def successor(value: Any) -> Any:
            return now.get(id(value), value) if isinstance(value, Tensor) else value

        for func, args, kwargs, out in self._calls:
            new = func(*tree_map(successor, args), **tree_map(successor, kwargs))
            for old, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, Tensor):
                    now[id(old)] = fresh
        for old in outputs:
            fresh = successor(old)
            if fresh is not old:
                old.copy_(fresh)


def record_tape(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """As :func:`vla_prune_ros.engine.graphs.cuda_graph`'s, for a CPU."""
    for _ in range(2):
        run()
    tape = Tape()
    with tape:
        outputs = run()
    kept = list(_tensors(outputs))
    return outputs, torch.inference_mode()(lambda: tape.replay(kept))


def _tensors(value: Any) -> Any:
    """The tensors of what a program returns: a tensor, or an ``Act``."""
    if isinstance(value, Tensor):
        yield value
        return
    yield from (value.actions, value.embeddings, *value.pruning.tensors())
