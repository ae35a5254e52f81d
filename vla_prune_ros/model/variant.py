"""Which variant of OpenVLA-OFT a folder holds: head, proprioception and FiLM, from its files.

``config.json`` records none of them: they were run-time flags of the published code.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ProfileError
from ..profiles import Profile
from .files import component_files, read_component
from .openvla import HEADS


@dataclass(frozen=True)
class Variant:
    """What was found.

    :param head: ``'l1'``, ``'diffusion'`` or ``'discrete'``.
    :param proprio: the model takes the robot's state.
    :param film: the towers are conditioned on the instruction and come from a file of their own.
    """

    head: str
    proprio: bool
    film: bool

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the ``.pt`` components that are read beside the towers."""
        heads = {
            'l1': ('action_head',),
            'diffusion': ('action_head', 'noisy_action_projector'),
            'discrete': (),
        }
        return (*heads[self.head], *(('proprio_projector',) if self.proprio else ()))


def find_variant(folder: Path, profile: Profile, head: str = 'auto') -> Variant:
    """Look at the component files of a folder.

    :param head: ``'auto'``, or the head that must be there; ``'discrete'`` may be chosen for any
        checkpoint that kept its ``lm_head``.
    :raises CheckpointError: the files contradict each other or the wish.
    :raises ProfileError: ``head`` is no name of a head.
    """
    if head not in ('auto', *HEADS):
        raise ProfileError(f'head {head!r} is unknown', f'use auto, {", ".join(HEADS)}')
    has_proprio = bool(component_files(folder, 'proprio_projector'))
    found = 'discrete' if head == 'discrete' else _head_of_files(folder, head, has_proprio)
    if head not in ('auto', found):
        raise CheckpointError(
            f'{folder}: its action head is {found}, head is set to {head}',
            "use head='auto' or the folder of another checkpoint",
        )
    film = bool(component_files(folder, 'vision_backbone'))
    return Variant(found, has_proprio and profile.proprio_dim > 0, film)


def _head_of_files(folder: Path, wish: str, has_proprio: bool) -> str:
    if not component_files(folder, 'action_head'):
        if wish == 'auto' and not has_proprio:
            return 'discrete'
        raise CheckpointError(
            f'{folder} needs exactly one action_head--N_checkpoint.pt, found none',
            "finish the download, or use head='discrete' for a checkpoint without a head",
        )
    names = read_component(folder, 'action_head')
    kind = 'diffusion' if any(n.startswith('noise_predictor.') for n in names) else 'l1'
    if kind == 'diffusion' and not component_files(folder, 'noisy_action_projector'):
        raise CheckpointError(
            f'{folder}: no noisy_action_projector--N_checkpoint.pt for its diffusion head',
            'finish the download of the checkpoint',
        )
    return kind
