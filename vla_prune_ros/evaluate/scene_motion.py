"""Speed of a scene's end effector, from the source that ``config/libero.yaml`` names."""

from functools import cache

from ..errors import ProfileError
from ..runtime.joint_motion import JacobianMotion
from ..runtime.motion import MotionSource, PoseMotion
from ..sim.scene import SceneState

PANDA_URDF = (
    'package://robosuite/models/assets/bullet_data/panda_description/urdf/panda_arm_hand.urdf'
)
"""robosuite's description of the arm; the same as in ``config/libero.yaml``."""

HAND_LINK = 'panda_hand'
"""Link whose motion counts; same source."""


def scene_motion(state: SceneState) -> MotionSource:
    """An empty source for a scene whose joints are those of ``state``.

    Joint velocities through the arm's Jacobian, as the node has it; differences of poses where
    pinocchio or the URDF is not installed, or the scene has another arm.
    """
    jacobian = _jacobian()
    if jacobian is None or not set(jacobian.arm.joints) <= set(state.joint_names):
        return PoseMotion()
    jacobian.reset()
    return jacobian


def show_state(source: MotionSource, stamp_ns: int, state: SceneState) -> None:
    """Feed a source with the joints and the pose of one instant."""
    source.on_joints(stamp_ns, state.joint_names, state.joint_positions, state.joint_velocities)
    source.on_pose(stamp_ns, state.ee_position, state.ee_quat_xyzw)


@cache
def _jacobian() -> JacobianMotion | None:
    try:
        return JacobianMotion(PANDA_URDF, HAND_LINK)
    except ProfileError:
        return None
