"""From recorded messages of one instant to what the policy sees, as the policy node does it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import InputRefused
from ..profiles import Profile
from ..records import Observation
from ..runtime.messages import read_image, read_joints, read_pose
from ..runtime.pairing import Pair
from ..runtime.state import GripperJoints, joints_proprio, pose_gripper_proprio
from .reader import BagMessage

POSE, JOINTS = 'ee_pose', 'joint_states'


@dataclass(frozen=True)
class Wiring:
    """How the robot is wired: the parameters of ``vla_policy`` of the same names, and theirs are
    the defaults. docs/interface.md explains each."""

    rotate_180: tuple[str, ...] = ()
    gripper_joints: tuple[str, ...] = ('panda_finger_joint1', 'panda_finger_joint2')
    gripper_signs: tuple[float, ...] = (1.0, 1.0)
    pose_offset_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    sync_slop_s: float = 0.02
    max_input_age_s: float = 0.5
    replan_period_s: float = 0.2
    stepping: str = 'free'


WIRING = Wiring()
"""That of the node's default parameters."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An instant at which the node would have asked the policy.

    :param pair: of :class:`~vla_prune_ros.bags.reader.BagMessage`, still serialised.
    :param instruction: cleaned.
    :param epoch: see :class:`~vla_prune_ros.bags.events.Event`.
    """

    pair: Pair
    instruction: str
    epoch: int


def observe(
    frame: Frame,
    profile: Profile,
    wiring: Wiring,
    rotation_reference: 'Sequence[float] | np.ndarray',
) -> Observation:
    """A frame's messages as the policy takes them.

    :raises InputRefused: one of them is not usable.
    """
    images = {c: picture(c, frame.pair.items[c], wiring) for c in profile.cameras}
    state = proprio(frame.pair, profile, wiring, rotation_reference)
    return Observation(images, state, frame.instruction, frame.pair.stamp_ns)


def picture(camera: str, message: BagMessage, wiring: Wiring) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned where the wiring says so.

    :raises InputRefused: it cannot be decoded.
    """
    try:
        decoded = read_image(message.message())
    except InputRefused as refusal:
        raise InputRefused(
            refusal.reason, f'camera {camera!r}: {refusal.what}', refusal.remedy
        ) from None
    return cv2.rotate(decoded, cv2.ROTATE_180) if camera in wiring.rotate_180 else decoded


def proprio(
    pair: Pair,
    profile: Profile,
    wiring: Wiring,
    rotation_reference: 'Sequence[float] | np.ndarray',
) -> np.ndarray | None:
    """The state vector of a pair, float64 (P,), as the node builds it; None without one.

    :raises InputRefused: a message is not usable.
    """
    if profile.proprio_kind == 'none' or not profile.proprio_dim:
        return None
    names, positions, _ = pair.items[JOINTS].read(read_joints)
    if profile.proprio_kind == 'joints':
        return joints_proprio(names, positions, profile.action_names)
    position, quaternion = pair.items[POSE].read(read_pose)
    fingers = GripperJoints(wiring.gripper_joints, wiring.gripper_signs).pick(names, positions)
    moved = position + np.asarray(wiring.pose_offset_m)
    return pose_gripper_proprio(moved, quaternion, fingers, rotation_reference)
