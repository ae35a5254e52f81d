"""How the network is run for one query: the seam that engines plug into."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from torch import Tensor

from ..model.openvla import Act, ActInputs, OpenVLAOFT
from ..pruning.plan import Pruner, Stage


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
