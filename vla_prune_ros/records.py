"""The frozen records that cross walls between the parts of this package.

They hold numpy arrays and plain values only, so that ``chunk_executor`` and tools that never run
the model can import them without torch. Stamps are integer nanoseconds of the ROS clock.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np


@dataclass(frozen=True)
class MotionHint:
    """How the end effector moves right now; feeds action-aware pruning.

    :param linear_m_s: speed of the end effector in m/s, >= 0.
    :param angular_rad_s: angular speed in rad/s, >= 0.
    :param vertical_m_s: velocity along the base frame's z in m/s, negative while descending.
    :param source: what it was computed from, for example ``'pose'`` or ``'joint_velocities'``.
    """

    linear_m_s: float
    angular_rad_s: float
    vertical_m_s: float
    source: str


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant.

    :param images: camera name -> uint8 (H, W, 3) RGB, upright as the profile expects it.
    :param proprio: float64 (P,), un-normalised, in the checkpoint's units; None where the
        checkpoint takes no proprioception.
    :param instruction: the task in plain words, for example ``'pick up the red cube'``.
    :param stamp_ns: stamp of the newest image.
    """

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray | None
    instruction: str
    stamp_ns: int = 0


@dataclass(frozen=True)
class Inference:
    """What one query of the policy returns.

    :param actions: float64 (K, D), un-normalised, the checkpoint's own units.
    :param normalized: float32 (K, D), the head's output.
    :param kept: camera -> bool (patches,), visual tokens that reached the last layer.
    :param kept_by_site: site name (``before_L0``, ``after_L3``) -> camera -> bool (patches,).
    :param mode: ``'dense'``, ``'coarse'`` or ``'fine'``.
    :param timings_ms: stage -> milliseconds, ``total`` included.
    :param model_images: camera -> uint8 (224, 224, 3), exactly what the towers saw.
    :param prompt: the text that was tokenised.
    :param stamp_ns: the observation's stamp.
    :param pruning: what the pruner decided and why, as plain values for reports, for example
        ``reason``, ``motion`` or ``changed_primary``; empty where it says nothing.
    """

    actions: np.ndarray
    normalized: np.ndarray
    kept: Mapping[str, np.ndarray]
    kept_by_site: Mapping[str, Mapping[str, np.ndarray]]
    mode: str
    timings_ms: Mapping[str, float]
    model_images: Mapping[str, np.ndarray] = field(repr=False)
    prompt: str = ''
    stamp_ns: int = 0
    pruning: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens that reached the last layer, all cameras together."""
        return int(sum(int(mask.sum()) for mask in self.kept.values()))


@dataclass(frozen=True)
class ActionChunk:
    """A timed chunk of end-effector motion in SI units, as it leaves the package.

    Step ``i`` is to be complete at ``stamp_ns + (i + 1) * dt_s``.

    :param stamp_ns: stamp of the newest image it was computed from.
    :param dt_s: control period in seconds.
    :param deltas: float64 (K, 6): translation in m and rotation vector in rad of each step, in the
        base frame, rotation left-multiplied (REP-103 axes).
    :param gripper: float64 (K,): 0 closed ... 1 open.
    :param frame_id: the frame the deltas are expressed in.
    """

    stamp_ns: int
    dt_s: float
    deltas: np.ndarray
    gripper: np.ndarray
    frame_id: str = ''

    def __len__(self) -> int:
        return len(self.deltas)


Record = TypeVar('Record', bound='QueryRecord')


def reported(
    default: Any, unit: str, doc: str, *, key: str = '', items: Mapping[str, str] | None = None
) -> Any:
    """A value of an inference record.

    :param unit: ``ms``, ``m/s``, ``1`` for a count, ``word`` and the like.
    :param key: its key in ``~/inference``; the field's name by default. Of a mapping it holds
        ``<name>`` in place of the key of each item.
    :param items: of a mapping: key of an item -> what it means; ``doc`` is then unused.
    """
    metadata = {'unit': unit, 'doc': doc, 'key': key, 'items': items or {}}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class QueryRecord:
    """What is reported of every query, wherever it ran; a field's default says that it is unknown.

    A number that is added here, and filled in by :meth:`.runtime.session.PolicySession.infer`, is
    in ``~/inference``, in the files of ``replay`` and ``evaluate`` and in docs/interface.md.
    """

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

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls: type[Record], values: Mapping[str, Any]) -> Record:
        """Inverse of :meth:`to_json`.

        :raises TypeError: a field is unknown.
        """
        return cls(**values)

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
        """Key of ``~/inference`` -> unit and meaning, for the documentation."""
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


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


@dataclass
class MethodRun:
    """Raw material of one table column.

    :param method: pruning method as the user wrote it.
    :param records: values of ``~/inference``, one mapping per query.
    :param chunks: chunks received.
    :param moved_m: path length of the end effector over all episodes, m.
    """

    method: str
    records: list[dict[str, str]] = field(default_factory=list)
    chunks: int = 0
    episodes: int = 0
    successes: int = 0
    moved_m: float = 0.0
