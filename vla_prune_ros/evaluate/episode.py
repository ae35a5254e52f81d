"""What names an evaluated episode and what it leaves behind: plain records, a line of JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import VlaPruneError


@dataclass(frozen=True)
class Setting:
    """What all episodes of a run have in common; others than these are other episodes.

    :param instruction: ``''`` for each task's own, ``'other'``, or the words.
    :param threads: torch threads; sums in floating point depend on it in the last bit.
    :param refresh: whether the policy looks once more after each query.
    :param max_steps: control steps per episode; None for the scene's own limit.
    """

    simulator: str = 'two_cubes'
    instruction: str = ''
    profile: str = 'libero'
    dtype: str = 'float32'
    device: str = 'cpu'
    threads: int = 1
    refresh: bool = True
    max_steps: int | None = None


@dataclass(frozen=True)
class EpisodeKey:
    """What names an episode within a run."""

    method: str
    task: str
    seed: int


@dataclass(frozen=True)
class QueryRecord:
    """One query of the policy.

    :param step: control steps of the episode before it.
    :param mode: ``'dense'``, ``'coarse'`` or ``'fine'``.
    :param visual_tokens: visual tokens that reached the last layer, all cameras together.
    :param total_ms: wall time of the policy.
    :param stages_ms: stage -> milliseconds, without the total.
    :param motion_m_s: speed of the end effector that the policy was told; None where unknown.
    :param reason: why the pruner chose the mode; empty where it does not say.
    """

    step: int
    mode: str
    visual_tokens: int
    total_ms: float
    stages_ms: Mapping[str, float]
    motion_m_s: float | None
    reason: str = ''


@dataclass(frozen=True)
class EpisodeResult:
    """One episode: what was asked, what happened, and every query.

    :param task: short name of the task, or its instruction where the scene has no names.
    :param instruction: what the policy was told.
    :param steps: control steps until success, else until the limit.
    :param wrong_object: ``'lifted'`` or ``'pushed'`` where something else than the task's object
        was manipulated; ``''`` where not, and where the scene does not tell.
    :param moved_m: length of the end effector's path, m.
    :param visual_all: visual tokens of all cameras before pruning.
    :param motion_source: what the speeds come from, ``'joint_velocities'`` or ``'pose'``.
    :param queries: in order.
    :param refresh_ms: wall time of every dense look between queries; none where the method has
        none.
    :param scene: simulator, versions and renderer in one line.
    :param generated_assets: True where the scene drew primitives in place of the published meshes
        and textures: no result that can be compared with others'.
    :param error: text of what ended the episode early; ``''`` for a regular one.
    """

    simulator: str
    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    wrong_object: str
    moved_m: float
    visual_all: int
    motion_source: str
    queries: tuple[QueryRecord, ...]
    refresh_ms: tuple[float, ...]
    scene: str = ''
    generated_assets: bool = False
    error: str = ''

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` gives an equal record back."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> 'EpisodeResult':
        """The record that :meth:`to_json` wrote.

        :raises VlaPruneError: fields are missing or unknown.
        """
        try:
            queries = tuple(QueryRecord(**query) for query in values['queries'])
            refresh_ms = tuple(values['refresh_ms'])
            return EpisodeResult(**{**values, 'queries': queries, 'refresh_ms': refresh_ms})
        except (KeyError, TypeError) as error:
            raise VlaPruneError(
                f'an episode record cannot be read ({error})',
                'it is of another version; use another folder',
            ) from None
