"""Motion of the end effector from joint states, with and without a URDF."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputRefused, ProfileError
from ..records import MotionHint
from .jacobian import ArmKinematics
from .motion_source import MotionSource, nothing_yet, require_fresh, twist_hint
from .state import joints_proprio
from .urdf import resolve_urdf

JointSample = tuple[int, Sequence[str], Sequence[float], Sequence[float]]
"""Stamp in ns, names, positions, velocities of one joint state."""


class JointMotion(MotionSource):
    """Keeps the newest joint state that concerns the arm.

    A driver of the gripper may publish its own messages on the same topic; they must not hide
    those of the arm. One that has some of the joints only is not completed from older ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sample: JointSample | None = None

    def on_joints(
        self,
        stamp_ns: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> None:
        """Keep it, unless it has no joint of the arm and an older one has."""
        if self._sample is None or self._concerned(names) or not self._concerned(self._sample[1]):
            self._sample = (stamp_ns, names, positions, velocities)

    def reset(self) -> None:
        """Forget the joint state."""
        super().reset()
        self._sample = None

    def _concerned(self, names: Sequence[str]) -> bool:
        """Whether a message with these joints has at least one of the arm."""
        raise NotImplementedError

    def _newest(self, stamp_ns: int) -> tuple[Sequence[str], Sequence[float], Sequence[float]]:
        if self._sample is None:
            raise nothing_yet('joint state')
        require_fresh('joint state', self._sample[0], stamp_ns)
        return self._sample[1:]


class JacobianMotion(JointMotion):
    """``J(q) q'`` of the tip relative to the base, through the robot's URDF.

    A driver that leaves the velocities out makes the motion unknown; one that fills in zeros
    cannot be told from an arm at rest.

    :param urdf: XML text, path or ``package://name/path``.
    :param tip: link whose motion counts.
    :param base: link whose axes are used, ``vertical_m_s`` along its z; empty for the root.
    :raises ProfileError: see :func:`~.urdf.resolve_urdf` and :class:`~.jacobian.ArmKinematics`.
    """

    name = 'joint_velocities'

    def __init__(self, urdf: str, tip: str, base: str = '') -> None:
        super().__init__()
        self.arm = ArmKinematics(resolve_urdf(urdf), tip, base)

    def _concerned(self, names: Sequence[str]) -> bool:
        return not self.arm.heard.isdisjoint(names)

    def _estimate(self, stamp_ns: int) -> MotionHint:
        twist = self.arm.twist(*self.arm.read(*self._newest(stamp_ns)))
        return twist_hint(twist, self.name)


class JointSpeedMotion(JointMotion):
    """A rough measure without a URDF: the fastest joint at the end of a lever.

    ``linear_m_s`` is ``max |q'| * reach_m``, what the fastest joint alone gives to the tip of a
    stretched arm; with ``n`` joints in motion the true speed lies between 0 and ``n`` times that.
    ``angular_rad_s`` is ``sum |q'|``, never less than the true one. ``vertical_m_s`` is 0: neither
    a rise nor a descent is seen. Both figures hold for revolute joints only.

    :param reach_m: distance from the axes of the joints to the tip of the stretched arm, in m.
    :param joints: joints of the arm; empty for all but ``gripper_joints``.
    :param gripper_joints: joints that do not count where ``joints`` is empty.
    :raises ProfileError: ``reach_m`` is not above 0.
    """

    name = 'joint_speed'

    def __init__(
        self, reach_m: float, joints: Sequence[str] = (), gripper_joints: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if not (np.isfinite(reach_m) and reach_m > 0):
            raise ProfileError(
                f'motion source {self.name!r} has a reach of {reach_m} m',
                'give the length of the stretched arm, in m',
            )
        self._reach_m = reach_m
        self._joints, self._gripper = tuple(joints), frozenset(gripper_joints)

    def _wanted(self, names: Sequence[str]) -> tuple[str, ...]:
        return self._joints or tuple(name for name in names if name not in self._gripper)

    def _concerned(self, names: Sequence[str]) -> bool:
        return not set(self._wanted(names)).isdisjoint(names)

    def _estimate(self, stamp_ns: int) -> MotionHint:
        names, _, velocities = self._newest(stamp_ns)
        wanted = self._wanted(names)
        if not wanted:
            raise InputRefused(
                'missing_joint', 'joint state has no joint of an arm', 'name its joints'
            )
        speeds = np.abs(joints_proprio(names, velocities, wanted, 'velocity', 'velocities'))
        return MotionHint(float(speeds.max() * self._reach_m), float(speeds.sum()), 0.0, self.name)
