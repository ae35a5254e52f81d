"""The frozen records that cross walls between the parts of this package.

They hold numpy arrays and plain values only, so that ``chunk_executor`` and tools that never run
the model can import them without torch. Stamps are integer nanoseconds of the ROS clock.

What is gathered while one pruning method drives an arm, for reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
