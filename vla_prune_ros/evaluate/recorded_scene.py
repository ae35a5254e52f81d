"""A simulated scene as a robot with a recorder: what happens in it is written as messages."""

from typing import Any

import numpy as np

from ..runtime import bag_messages as build
from ..runtime.bag_writing import BagWriter
from ..sim.scene import ANGULAR_UNIT_RAD, LINEAR_UNIT_M, Scene, SceneState, twist_to_action
from ..sim.session import GAP_NS, START_NS
from .driving import upright

WORLD_FRAME = 'world'
"""Frame of poses and commands, as that of the node ``simulator``."""

INSTRUCTION, POSE, JOINTS, TWIST, GRIPPER = (
    '/instruction',
    '/ee_pose',
    '/joint_states',
    '/twist',
    '/gripper',
)

_MS = 1_000_000
# From stamp to receipt. States come before the images, so that these complete a pair, and the
# command behind what it answers to.
_DELAYS_NS = {INSTRUCTION: 0, POSE: 1 * _MS, JOINTS: 2 * _MS, TWIST: 20 * _MS, GRIPPER: 21 * _MS}
_FIRST_IMAGE_NS, _NEXT_IMAGE_NS = 8 * _MS, 1 * _MS


def image_topic(camera: str, compressed: bool = False) -> str:
    """Topic of a camera."""
    return f'/camera/{camera}/image_raw' + ('/compressed' if compressed else '')


def command(action: np.ndarray, control_hz: float) -> tuple[np.ndarray, float]:
    """An action as ``chunk_executor`` sends it, the inverse of
    :func:`~vla_prune_ros.sim.scene.twist_to_action` within its limits.

    :param action: float64 (7,) as :meth:`~vla_prune_ros.sim.scene.Scene.step` takes it.
    :returns: float64 (6,) in m/s and rad/s along the world's axes, and the gripper, 0 closed
        ... 1 open.
    """
    unit = control_hz * np.repeat((LINEAR_UNIT_M, ANGULAR_UNIT_RAD), 3)
    return np.asarray(action[:6], np.float64) * unit, (1.0 - float(action[6])) / 2.0


class RecordedScene:
    """A :class:`~vla_prune_ros.sim.scene.Scene` around another one.

    Each control step is recorded like this, T being the time at which it begins:

    - pose, joints and the pictures of T, stamped T;
    - the twist that holds from T on and the gripper (0 closed ... 1 open), stamped T, in SI units
      along the world's axes, as ``chunk_executor`` sends them with ``stepping`` synchronous. The
      arm is moved by what was written, so the same commands give the same episode.

    :meth:`end` adds what is seen behind the last step, and a twist of zero. The pictures are
    turned by 180 degrees, which is how the policy saw them in training: whoever reads the bag
    leaves ``rotate_180`` empty. The instruction opens every episode.

    The clock is the scene's, begins at :data:`~vla_prune_ros.sim.session.START_NS` and goes on
    from episode to episode, with a gap that makes every reader forget the episode before. Times of
    receipt are the stamps and a few milliseconds, always the same.

    :param compressed: images as JPEG.
    """

    def __init__(self, scene: Scene, writer: BagWriter, compressed: bool = False) -> None:
        self.scene = scene
        self._writer, self._compressed = writer, compressed
        self._period_ns = round(1e9 / scene.control_hz)
        self._now_ns = START_NS - self._period_ns - GAP_NS  # which the first reset adds
        self._pictures: dict[str, np.ndarray] | None = None
        self.steps = 0
        """Control steps of the present episode."""

    def __getattr__(self, name: str) -> Any:
        """What only some scenes have, for example ``task``, is the inner scene's."""
        return getattr(self.scene, name)

    @property
    def control_hz(self) -> float:
        """Control steps per simulated second."""
        return self.scene.control_hz

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names."""
        return self.scene.cameras

    @property
    def instruction(self) -> str:
        """The task of the present episode."""
        return self.scene.instruction

    @property
    def description(self) -> str:
        """The inner scene's."""
        return self.scene.description

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset."""
        return self.scene.time_s

    def reset(self, seed: int) -> None:
        """Start the episode of a seed; time goes on."""
        self.scene.reset(seed)
        self._now_ns += self._period_ns + GAP_NS
        self._pictures, self.steps = None, 0
        self._write(INSTRUCTION, build.text_message(self.scene.instruction))

    def step(self, action: np.ndarray) -> None:
        """Record what is seen and commanded now, then make the control step."""
        self._observe()
        twist, opening = command(action, self.control_hz)
        self._send(twist, opening)
        self.scene.step(twist_to_action(twist[:3], twist[3:], opening, self.control_hz))
        self._now_ns += self._period_ns
        self.steps += 1
        self._pictures = None

    def end(self) -> None:
        """Record what is seen now, at the end of an episode, and stop the arm."""
        self._observe()
        stop = build.twist_message(np.zeros(6), self._now_ns, WORLD_FRAME)
        self._write(TWIST, stop)

    def images(self) -> dict[str, np.ndarray]:
        """The inner scene's pictures of this instant, rendered once."""
        if self._pictures is None:
            self._pictures = self.scene.images()
        return self._pictures

    def state(self) -> SceneState:
        """Pose and joints now."""
        return self.scene.state()

    def success(self) -> bool:
        """Whether the task is fulfilled now."""
        return self.scene.success()

    def close(self) -> None:
        """Free the inner scene."""
        self.scene.close()

    def _observe(self) -> None:
        now, state = self._now_ns, self.scene.state()
        pose = build.pose_message(state.ee_position, state.ee_quat_xyzw, now, WORLD_FRAME)
        joints = build.joint_message(
            state.joint_names, state.joint_positions, state.joint_velocities, now
        )
        self._write(POSE, pose)
        self._write(JOINTS, joints)
        picture = build.compressed_message if self._compressed else build.image_message
        views = upright(self.images())
        for i, camera in enumerate(self.cameras):
            message = picture(views[camera], now, f'{camera}_optical')
            receipt_ns = now + _FIRST_IMAGE_NS + i * _NEXT_IMAGE_NS
            self._writer.write(image_topic(camera, self._compressed), receipt_ns, message)

    def _send(self, twist: np.ndarray, opening: float) -> None:
        self._write(TWIST, build.twist_message(twist, self._now_ns, WORLD_FRAME))
        self._write(GRIPPER, build.gripper_message(opening, self._now_ns))

    def _write(self, topic: str, message: Any) -> None:
        self._writer.write(topic, self._now_ns + _DELAYS_NS[topic], message)
