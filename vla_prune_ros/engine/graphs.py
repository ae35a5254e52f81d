"""How the network is run for one query: operation by operation, or as captured graphs.

A query launches some thousand small kernels, and a CUDA graph launches them all at once; but only
with fixed shapes, fixed addresses, and no number that the host has to read. Inputs are therefore
copied into tensors that stay, a pruner's answers have sizes that follow from the mode alone
(``Pruner.capturable``), and what it learns is overwritten in place."""

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ProfileError
from ..model.openvla import Act, ActInputs, OpenVLAOFT
from ..pruning.base import SELECTION, Pruner
from ..pruning.forward_state import PruningState

T = TypeVar('T')

MAX_GRAPHS = 24  # per policy: three modes of eight prompt lengths; the least recently used goes
BUCKET = 32  # where the data say how many tokens are kept, a graph holds a multiple of it

# Runs a computation; gives what it returned, and how to do it again on the same tensors.
Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


class Forward(Protocol):
    """How the network is run; ``name`` says why not faster."""

    name: str

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """As :meth:`.OpenVLAOFT.encode_images`."""

    def act(self, inputs: ActInputs) -> Act:
        """As :meth:`.OpenVLAOFT.act`."""


Engine = Callable[[OpenVLAOFT, Pruner], Forward]


class Eager:
    def __init__(self, model: OpenVLAOFT, why: str = '') -> None:
        self.name = f'eager ({why})' if why else 'eager'
        self.visual, self.act = model.encode_images, model.act


def eager(model: OpenVLAOFT, pruner: Pruner) -> Forward:
    return Eager(model)


class CaptureFailed(Exception):
    """The message is the device's reason."""


@dataclass(frozen=True)
class Graph:
    inputs: tuple[Tensor | None, ...]
    outputs: Any
    replay: Callable[[], None]

    def __call__(self, *values: Tensor | None) -> Any:
        """Copy the inputs in and replay; the outputs are overwritten by the next call."""
        for mine, value in zip(self.inputs, values, strict=True):
            if mine is not None:
                mine.copy_(value, non_blocking=True)
        self.replay()
        return self.outputs


class Graphs:
    """A graph of the towers per number of cameras; of decoder and head per prompt length, mode and
    bucket, captured by the first query of each (``Policy.warm_up``). The query during which a
    device refuses to capture is answered one operation at a time, and so are those after it."""

    def __init__(self, model: OpenVLAOFT, capture: Capture) -> None:
        self.name = 'graphs'
        self.graphs: dict[Hashable, Graph] = {}
        self._model, self._capture = model, capture

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        def replay() -> Tensor:
            if self._model.size.film:  # the instruction changes what the towers see
                key = images.shape, prompt_ids.shape
                return self._run(key, self._model.encode_images, images, prompt_ids)
            return self._run(
                images.shape, lambda pixels: self._model.encode_images(pixels, prompt_ids), images
            )

        return self._or_eager(replay, lambda: self._model.encode_images(images, prompt_ids))

    def act(self, inputs: ActInputs) -> Act:
        """Selection and head are in the graph, so that their time is in ``'language'``."""
        return self._or_eager(lambda: self._act(inputs), lambda: self._model.act(inputs))

    def _act(self, inputs: ActInputs) -> Act:
        size = None
        if inputs.pruner.bucketed:
            with inputs.stage(SELECTION):
                size = self._bucket(inputs)
        # Timing and checks wait for the device, which a capture does not allow.
        inside = replace(inputs, stage=nullcontext, checked=False, bucket_size=size)

        def decode(visual: Tensor, prompt_ids: Tensor, proprio: Tensor | None) -> Act:
            tensors = {'visual': visual, 'prompt_ids': prompt_ids, 'proprio': proprio}
            return self._model.decode_actions(replace(inside, **tensors))

        with inputs.stage('language'):
            key = inputs.layout, inputs.mode, size
            act = self._run(key, decode, inputs.visual, inputs.prompt_ids, inputs.proprio)
            inputs.pruner.after_pass(act.pruning.memory)
        return act

    def _bucket(self, inputs: ActInputs) -> int:
        layout, pruner = inputs.layout, inputs.pruner

        def count(visual: Tensor, prompt_ids: Tensor, proprio: Tensor | None) -> Tensor:
            x = self._model.embed(visual, prompt_ids, proprio, layout)
            positions = torch.arange(x.shape[1], device=x.device)
            state = PruningState(layout=layout, pruner=pruner, positions=positions)
            return pruner.count(state.context(state.site_after(-1), x))

        key = layout, 'count'
        number = int(self._run(key, count, inputs.visual, inputs.prompt_ids, inputs.proprio))
        return min(-(-number // BUCKET) * BUCKET, layout.visual)

    def _run(self, key: Hashable, run: Callable[..., Any], *values: Tensor | None) -> Any:
        graph = self.graphs.pop(key, None)
        if graph is None:
            if len(self.graphs) >= MAX_GRAPHS:
                del self.graphs[next(iter(self.graphs))]
            inputs = tuple(None if value is None else value.clone() for value in values)
            try:
                outputs, replay = self._capture(lambda: run(*inputs))
            except RuntimeError as error:  # torch's word for all that a device refuses
                raise CaptureFailed(str(error).partition('\n')[0]) from error
            graph = Graph(inputs, outputs, replay)
        self.graphs[key] = graph  # the last one used is the last one to go
        return graph(*values)

    def _or_eager(self, replay: Callable[[], T], run: Callable[[], T]) -> T:
        if self.name == 'graphs':
            try:
                return replay()
            except CaptureFailed as error:
                self.name = f'eager (recording failed: {error})'
                self.graphs.clear()
        return run()


def cuda_graph(pool: Any = None) -> Capture:
    """Captures CUDA graphs that share the memory ``pool`` for what lives inside one replay."""
    pool = pool or torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries set themselves up, pruners make the tensors they keep
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = run()
        return outputs, graph.replay

    return capture


ENGINES = ('auto', 'graphs', 'eager')


def choose_engine(name: str, device: str) -> Engine:
    """:param name: ``'eager'``; ``'graphs'``: CUDA graphs; ``'auto'``: these on a CUDA device.
    :raises ProfileError: the name is unknown, or the device has no graphs."""
    cuda = torch.device(device).type == 'cuda'
    if name not in ENGINES:
        raise ProfileError(f'engine {name!r} is unknown', f'use one of {ENGINES}')
    if name == 'graphs' and not cuda:
        raise ProfileError(
            f'engine graphs does not exist on device {device!r}', "use 'auto', or device 'cuda'"
        )
    return capturing(cuda_graph()) if cuda and name != 'eager' else eager


def why_eager(model: OpenVLAOFT, pruner: Pruner) -> str:
    """Why a query cannot be captured; empty where it can."""
    if model.size.head == 'diffusion':
        return 'a diffusion head makes several passes'
    if not pruner.capturable:
        return f'how many tokens {pruner.name} keeps depends on the data'
    return ''


def capturing(capture: Capture) -> Engine:
    def engine(model: OpenVLAOFT, pruner: Pruner) -> Forward:
        why = why_eager(model, pruner)
        return Eager(model, why) if why else Graphs(model, capture)

    return engine
