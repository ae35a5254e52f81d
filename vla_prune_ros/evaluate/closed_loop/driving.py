"""Between a policy and a scene without ROS: what the policy is shown, what the arm is told.

The same numbers as through the nodes: LIBERO's state vector, frames turned by 180 degrees, and the
gripper as robosuite takes it (openvla-oft, ``run_libero_eval.py``).
"""

from collections.abc import Mapping

import numpy as np

from ...engine.policy import Policy
from ...model.proprio import gripper_to_env
from ...records import Inference, Observation
from ...runtime.state import pose_gripper_proprio
from ...sim.scene import Scene, SceneState


def upright(images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A scene's pictures (row 0 at the bottom) as LIBERO's checkpoints saw them: turned by 180
    degrees, uint8 (H, W, 3)."""
    return {camera: np.ascontiguousarray(view[::-1, ::-1]) for camera, view in images.items()}


def proprio(state: SceneState, rotation_reference: np.ndarray) -> np.ndarray:
    """LIBERO's state, float64 (8,): position (m), rotation vector (rad), both fingers (m).

    :param rotation_reference: (3,) mean rotation vector of the statistics file, which fixes the
        branch.
    """
    fingers = state.joint_positions[-2:]
    return pose_gripper_proprio(state.ee_position, state.ee_quat_xyzw, fingers, rotation_reference)


def observe(
    policy: Policy,
    scene: Scene,
    images: Mapping[str, np.ndarray],
    stamp_ns: int,
    instruction: str | None = None,
) -> Observation:
    """What the policy gets from the scene as it is now.

    :param images: the scene's pictures of this instant, as :meth:`Scene.images` gives them.
    :param instruction: None for the scene's own.
    """
    bounds = policy.statistics.proprio
    state = None if bounds is None else proprio(scene.state(), bounds.mean[3:6])
    return Observation(upright(images), state, instruction or scene.instruction, stamp_ns)


def env_actions(answer: Inference) -> np.ndarray:
    """The chunk as a scene takes it: float64 (K, 7), gripper -1 open, +1 close."""
    return gripper_to_env(answer.actions)
