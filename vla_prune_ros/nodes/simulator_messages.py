"""Between the simulator's records and ROS messages; nothing here keeps state."""

from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from ..errors import InputRefused
from ..sim.scene import SceneState
from .messages import status_message

WORLD_FRAME = 'world'


def gripper_goal(message: JointTrajectory) -> float:
    """Fraction open (0 closed .. 1 open): the last point of a trajectory of the joint ``gripper``.

    :raises InputRefused: ``joint_names`` for another joint, ``points`` where no position is given.
    """
    names = list(message.joint_names)
    if names != ['gripper']:
        raise InputRefused('joint_names', f'joint_names is {names}', "send ['gripper']")
    if not message.points or len(message.points[-1].positions) != 1:
        raise InputRefused('points', 'no point with one position', 'send one')
    return float(message.points[-1].positions[0])


def pose_message(state: SceneState, stamp: Time) -> PoseStamped:
    """The end effector's pose in the world frame."""
    x, y, z = map(float, state.ee_position)
    qx, qy, qz, qw = map(float, state.ee_quat_xyzw)
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return PoseStamped(header=Header(stamp=stamp, frame_id=WORLD_FRAME), pose=pose)


def joint_message(state: SceneState, stamp: Time) -> JointState:
    """Positions and velocities of arm and fingers."""
    return JointState(
        header=Header(stamp=stamp),
        name=list(state.joint_names),
        position=state.joint_positions.tolist(),
        velocity=state.joint_velocities.tolist(),
    )


def episode_message(
    node: str, values: Mapping[str, Any], success: bool, stamp: Time, waits_for: str = ''
) -> DiagnosticArray:
    """How the episode stands: ``values`` and ``success`` as one status, at WARN while it waits."""
    status = status_message(
        f'{node}: episode',
        DiagnosticStatus.WARN if waits_for else DiagnosticStatus.OK,
        waits_for or ('success' if success else 'running'),
        {**values, 'success': str(success).lower()},
        'simulation',
    )
    return DiagnosticArray(header=Header(stamp=stamp, frame_id=WORLD_FRAME), status=[status])
