"""How the network is run for one query: the seam that engines plug into.

The network as programs: recorded once per shape, then replayed on the same memory.

A query launches some thousand small kernels; on a fast device the time goes into launching them.
A CUDA graph launches them all at once, but only what a device can do without the host: fixed
shapes, fixed addresses, no number that the host has to look at. Inputs are therefore copied into
tensors that stay, a pruner's answers have sizes that follow from the mode alone
(``Pruner.capturable``), and what it learns is overwritten in place.
"""

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ProfileError
from ..model.openvla import Act, ActInputs, OpenVLAOFT
from ..pruning.base import SELECTION, Pruner, Stage
from ..pruning.forward_state import PruningState


class Forward(Protocol):
    """How the network is run.

    :param name: for reports, with the reason where it could be faster.
    """

    name: str

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """As :meth:`.OpenVLAOFT.look`."""

    def act(self, inputs: ActInputs, stage: Stage = nullcontext) -> Act:
        """As :meth:`.OpenVLAOFT.act`."""


Engine = Callable[[OpenVLAOFT, Pruner], Forward]
"""How a policy runs its network."""


class Eager:
    """Operation by operation, as torch does it."""

    def __init__(self, model: OpenVLAOFT, why: str = '') -> None:
        self.name = f'eager ({why})' if why else 'eager'
        self.visual, self.act = model.look, model.act


def eager(model: OpenVLAOFT, pruner: Pruner) -> Forward:
    """Nothing is recorded."""
    return Eager(model)


T = TypeVar('T')

MOST_PROGRAMS = 24
"""Per policy: three modes of eight prompt lengths. What was not used for longest goes first."""

BUCKET = 32
"""Where the data say how many tokens stay, programs hold a multiple of it."""

Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Runs a computation, and returns what it returned and how to do it again on the same tensors."""


class NotRecorded(Exception):
    """The device did not record a computation; the message is its reason."""


@dataclass(frozen=True)
class Program:
    """A recorded computation: where its inputs lie, where its outputs will be."""

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


class Programs:
    """Replays as long as the device records, see :class:`Recorded`; :class:`.Eager` after that.

    An arm that waits for a chunk is not helped by an error, so the query during which a device
    refuses to record is answered one operation at a time, and so are those after it.

    :param record: see :data:`Record`; :func:`cuda_graph` on a CUDA device.
    """

    def __init__(self, model: OpenVLAOFT, record: Record) -> None:
        self._model = model
        self._forward: Forward = Recorded(model, record)

    @property
    def name(self) -> str:
        """``'graphs'``, or why not."""
        return self._forward.name

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """See :class:`.Forward`."""
        return self._run(lambda forward: forward.visual(images, prompt_ids))

    def act(self, inputs: ActInputs, stage: Stage = nullcontext) -> Act:
        """See :class:`.Forward`."""
        return self._run(lambda forward: forward.act(inputs, stage))

    def _run(self, ask: Callable[[Forward], T]) -> T:
        try:
            return ask(self._forward)
        except NotRecorded as error:
            self._forward = Eager(self._model, f'recording failed: {error}')
            return ask(self._forward)


class Recorded:
    """Replays: one program for the towers, one for decoder and head per prompt length and mode.

    The first query of each shape is slower, since it records; ``Policy.warm_up`` does that.

    :param record: see :data:`Record`.
    :raises NotRecorded: by its methods, where the device refuses to record.
    """

    name = 'graphs'

    def __init__(self, model: OpenVLAOFT, record: Record) -> None:
        self._model, self._record = model, record
        self._programs: dict[Hashable, Program] = {}

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """See :class:`.Forward`."""
        if self._model.size.film:  # the words change what the towers see
            key = images.shape, prompt_ids.shape
            return self._run(key, self._model.look, images, prompt_ids)
        return self._run(images.shape, lambda seen: self._model.look(seen, prompt_ids), images)

    def act(self, inputs: ActInputs, stage: Stage = nullcontext) -> Act:
        """See :class:`.Forward`. Selection is a part of the program, so that its time is in
        ``'language'``; so is the head's."""
        layout, pruner, size = inputs.layout, inputs.pruner, None
        if pruner.bucketed:
            with stage(SELECTION):
                size = self._size(inputs)

        def query(*tensors: Tensor | None) -> Act:
            return self._model.decode_actions(
                *tensors, layout, pruner, checked=False, bucket_size=size
            )

        with stage('language'):
            act = self._run((layout, inputs.mode, size), query, *inputs.tensors)
            act.walk.finish()
        with stage('head'):
            return act

    def _size(self, inputs: ActInputs) -> int:
        """How many tokens the program must hold: the host waits once for the number that stay."""
        layout, pruner = inputs.layout, inputs.pruner

        def count(*tensors: Tensor | None) -> Tensor:
            x = self._model.embed(*tensors, layout)
            walk = PruningState(layout, pruner, torch.arange(x.shape[1], device=x.device))
            return pruner.count(walk.view(walk.site_after(-1), x))

        number = int(self._run((layout, 'count'), count, *inputs.tensors))
        return min(-(-number // BUCKET) * BUCKET, layout.visual)

    def _run(self, key: Hashable, run: Callable[..., Any], *values: Tensor | None) -> Any:
        program = self._programs.pop(key, None)
        if program is None:
            if len(self._programs) >= MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            inputs = tuple(None if value is None else value.clone() for value in values)
            try:
                outputs, replay = self._record(lambda: run(*inputs))
            except RuntimeError as error:  # torch's word for all that a device refuses
                raise NotRecorded(str(error).partition('\n')[0]) from error
            program = Program(inputs, outputs, replay)
        self._programs[key] = program  # the last one used is the last one to go
        return program(*values)


def cuda_graph(pool: Any = None) -> Record:
    """Records CUDA graphs that share memory for what lives inside one replay.

    :param pool: of another call, to share with it.
    """
    pool = pool or torch.cuda.graph_pool_handle()

    def record(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
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

    return record


ENGINES = ('auto', 'graphs', 'eager')


def choose_engine(name: str, device: str) -> Engine:
    """An engine by name.

    :param name: ``'eager'``; ``'graphs'``: CUDA graphs; ``'auto'``: these on a CUDA device.
    :raises ProfileError: the name is unknown, or the device has no graphs.
    """
    cuda = torch.device(device).type == 'cuda'
    if name not in ENGINES:
        raise ProfileError(f'engine {name!r} is unknown', f'use one of {ENGINES}')
    if name == 'graphs' and not cuda:
        raise ProfileError(
            f'engine graphs does not exist on device {device!r}', "use 'auto', or device 'cuda'"
        )
    return recording(cuda_graph()) if cuda and name != 'eager' else eager


def why_eager(model: OpenVLAOFT, pruner: Pruner) -> str:
    """Why a query cannot be recorded; empty where it can."""
    if model.size.head == 'diffusion':
        return 'a diffusion head makes several passes'
    if not pruner.capturable:
        return f'how many tokens {pruner.name} keeps depends on the data'
    return ''


def recording(record: Record) -> Engine:
    """Programs where nothing speaks against it, see :func:`why_eager`."""

    def engine(model: OpenVLAOFT, pruner: Pruner) -> Forward:
        why = why_eager(model, pruner)
        return Eager(model, why) if why else Programs(model, record)

    return engine
