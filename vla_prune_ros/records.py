"""The frozen records between the parts of this package, of numpy arrays and plain values only:
``chunk_executor`` imports them without torch. Stamps are nanoseconds of the ROS clock."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MotionHint:
    """How the end effector moves right now; feeds action-aware pruning."""

    linear_m_s: float  # speed, >= 0
    angular_rad_s: float  # speed, >= 0
    vertical_m_s: float  # along the base frame's z, negative while descending
    source: str  # what it was computed from, for example 'pose' or 'joint_velocities'


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant."""

    images: Mapping[str, np.ndarray]  # camera -> uint8 (H, W, 3) RGB, as the profile expects it
    proprio: np.ndarray | None  # float64 (P,), un-normalised, in the checkpoint's units
    instruction: str
    stamp_ns: int = 0  # of the newest image


@dataclass(frozen=True)
class Inference:
    """What one query of the policy returns."""

    actions: np.ndarray  # float64 (K, D), un-normalised, the checkpoint's own units
    normalized: np.ndarray  # float32 (K, D), the head's output
    kept: Mapping[str, np.ndarray]  # camera -> bool (patches,), tokens that reached the last layer
    kept_by_site: Mapping[str, Mapping[str, np.ndarray]]  # site (``after_L3``) -> the same
    mode: str  # 'dense', 'coarse' or 'fine'
    timings_ms: Mapping[str, float]  # by stage, ``total`` included
    model_images: Mapping[str, np.ndarray] = field(repr=False)  # uint8 (224, 224, 3), as encoded
    prompt: str = ''
    stamp_ns: int = 0
    # What the pruner decided and why, for reports, for example ``reason`` or ``motion``.
    pruning: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def visual_tokens(self) -> int:
        """That reached the last layer, all cameras together."""
        return sum(int(mask.sum()) for mask in self.kept.values())


@dataclass(frozen=True)
class ActionChunk:
    """A timed chunk of end-effector motion in SI units, as it leaves the package.

    Step ``i`` is to be complete at ``stamp_ns + (i + 1) * dt_s``.

    :param deltas: float64 (K, 6): translation in m and rotation vector in rad of each step, in the
        base frame, rotation left-multiplied (REP-103 axes)."""

    stamp_ns: int  # of the newest image it was computed from
    dt_s: float
    deltas: np.ndarray
    gripper: np.ndarray  # float64 (K,): 0 closed ... 1 open
    frame_id: str = ''

    def __len__(self) -> int:
        return len(self.deltas)


def reported(
    default: Any, unit: str, doc: str, *, key: str = '', items: Mapping[str, str] | None = None
) -> Any:
    """A value of an inference record.

    :param unit: ``ms``, ``m/s``, ``1`` for a count, ``word`` and the like.
    :param key: in ``~/inference``; the field's name by default. For a mapping ``<name>`` stands
        for the key of each item, and ``items`` says what those mean."""
    metadata = {'unit': unit, 'doc': doc, 'key': key, 'items': items or {}}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class QueryRecord:
    """What is reported of every query, wherever it ran, in ``~/inference``, in the files of
    ``replay`` and ``evaluate`` and in docs/interface.md; a default means unknown."""

    mode: str = reported('', 'word', '`dense`, `coarse` or `fine`.')
    visual_tokens: int | None = reported(
        None, '1', 'Visual tokens that reached the last layer, all cameras.'
    )
    total_ms: float | None = reported(
        None, 'ms', 'The whole query inside the policy.', key='policy_total_ms'
    )
    stages_ms: Mapping[str, float] = reported(
        {},
        'ms',
        '',
        key='policy_<stage>_ms',
        items={
            'preprocess': 'JPEG round trip, resize, crop, state.',
            'vision': 'Both towers and the projector.',
            'selection': 'All work of the pruning method, wherever it happens.',
            'language': 'Language model without that.',
            'head': 'Action head and un-normalisation.',
        },
    )
    motion_m_s: float | None = reported(
        None,
        'm/s',
        'Speed of the end effector; left out while it is unknown, like the next two.',
        key='motion_linear_m_s',
    )
    reason: str = reported(
        '', 'word', 'Why the method chose the mode, in its own words.', key='pruning_reason'
    )

    def flat(self) -> dict[str, Any]:
        """Key of ``~/inference`` -> value, of all that is known."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Mapping):
                out |= {_item_key(f, name): item for name, item in value.items()}
            elif value is not None and value != '':
                out[f.metadata['key'] or f.name] = value
        return out

    @classmethod
    def keys(cls) -> dict[str, tuple[str, str]]:
        """Key of ``~/inference`` -> unit and meaning."""
        out: dict[str, tuple[str, str]] = {}
        for f in fields(cls):
            unit, doc, items = (f.metadata[k] for k in ('unit', 'doc', 'items'))
            if items:
                out |= {_item_key(f, name): (unit, text) for name, text in items.items()}
            else:
                out[f.metadata['key'] or f.name] = unit, doc
        return out


@dataclass(frozen=True, kw_only=True)
class InferenceRecord(QueryRecord):
    """The record of a query that a session ran: the values of ``~/inference``."""

    motion: str = reported(
        'unknown', 'word', 'What the speed of the end effector came from, or `unknown`.'
    )
    motion_angular_rad_s: float | None = reported(None, 'rad/s', 'The same of rotation.')
    motion_vertical_m_s: float | None = reported(
        None, 'm/s', "Along the base's z, negative while descending."
    )
    node_ms: Mapping[str, float] = reported(
        {},
        'ms',
        '',
        key='node_<stage>_ms',
        items={
            'pairing': 'Finding the newest complete pair.',
            'queue': 'Waiting for the query before; not part of the overhead.',
            'decode': 'Image messages to RGB arrays.',
            'state': 'Pose and joints to the state vector.',
            'guard': 'Units, limits and finiteness of the actions.',
            'publish': 'The chunk message.',
            'report': 'Record, path and overlays of the query before.',
        },
    )
    overhead_ms: float | None = reported(None, 'ms', 'All `node_` stages but the queue.')
    stamp_to_chunk_ms: float | None = reported(
        None, 'ms', 'ROS time from the newest image to the published chunk.'
    )
    skew_ms: float | None = reported(None, 'ms', 'Newest minus oldest image stamp of the pair.')
    ages_ms: Mapping[str, float] = reported(
        {}, 'ms', 'ROS time minus header stamp when the pair was made.', key='age_<stream>_ms'
    )
    early_cameras: int | None = reported(
        None, '1', 'Cameras whose frames the towers saw before the rest of the pair came.'
    )
    kept: Mapping[str, int] = reported(
        {}, '1', 'Visual tokens of one camera that reached the last layer.', key='kept_<camera>'
    )
    steps: int | None = reported(None, '1', 'Steps of the chunk.')
    pruning: Mapping[str, Any] = reported(
        {},
        'any',
        'What else the method says of itself, for example `pruning_motion`.',
        key='pruning_<key>',
    )
    refresh_ms: float | None = reported(
        None, 'ms', 'Refresh of the pruning memory behind the chunk before, where one ran.'
    )
    scaled_steps: int | None = reported(None, '1', 'Steps that were scaled down to a limit.')
    largest_step_m: float | None = reported(None, 'm', 'Largest translation before scaling.')
    largest_step_rad: float | None = reported(None, 'rad', 'Largest rotation before scaling.')
    prompt: str = reported('', 'text', 'What was tokenised, line breaks as blanks.')


def _item_key(f: Field, name: str) -> str:
    before, _, after = f.metadata['key'].partition('<')
    return before + name + after.partition('>')[2]


@dataclass
class MethodRun:
    """Raw material of one table column."""

    method: str  # as the user wrote it
    records: list[dict[str, str]] = field(default_factory=list)  # of ``~/inference``, by query
    chunks: int = 0
    episodes: int = 0
    successes: int = 0
    moved_m: float = 0.0  # path of the end effector over all episodes
