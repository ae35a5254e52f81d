"""The interface of everything that can tell how fast the end effector moves.

A motion that is not known is None with a reason: the pruning controller then prunes
conservatively, nothing is guessed.

Motion of the end effector from joint states, with and without a URDF.

How fast the end effector moves: the sources that need no joint state, and the choice of one.

The pruning controller keeps more tokens while the arm moves slowly or descends.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputRefused, ProfileError
from ..records import ActionChunk, MotionHint
from .kinematics import ArmKinematics, resolve_urdf
from .state import MotionEstimator, Vector, joints_proprio

MAX_AGE_S = 0.5
"""A sample further than this from the asked instant says nothing about it, in s."""


class MotionSource:
    """Takes in what arrives, and tells the motion at an instant.

    Every source may be given every input and ignores what it does not use. Inputs never raise; a
    bad one makes the motion unknown. Not thread-safe: the node's executor thread owns it.
    """

    name: str
    """Value of the parameter that chooses this source, and ``source`` of its hints."""

    def __init__(self) -> None:
        self._why = ''

    def on_joints(
        self,
        stamp_ns: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> None:
        """A joint state: rad and rad/s, for prismatic joints m and m/s; any order."""

    def on_pose(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> None:
        """A pose of the end effector in the base frame: (3,) in m and (4,) of either sign."""

    def on_chunk(self, chunk: ActionChunk) -> None:
        """The chunk that was commanded last."""

    def reset(self) -> None:
        """Forget every input, for a new episode or after a jump of the clock."""
        self._why = ''

    def at(self, stamp_ns: int) -> MotionHint | None:
        """The motion at an instant, usually the stamp of an image; None where it is unknown."""
        try:
            hint, self._why = self._estimate(stamp_ns), ''
        except InputRefused as refusal:
            hint, self._why = None, str(refusal)
        return hint

    def why(self) -> str:
        """Why the last :meth:`at` gave None, in one line; empty where it gave a motion."""
        return self._why

    def _estimate(self, stamp_ns: int) -> MotionHint:
        """:raises InputRefused: the motion is unknown."""
        raise NotImplementedError


def twist_hint(twist: np.ndarray, source: str) -> MotionHint:
    """Hint from a twist: linear velocity in m/s and angular in rad/s, (6,), axes of the base."""
    linear, angular = float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))
    return MotionHint(linear, angular, float(twist[2]), source)


def nothing_yet(what: str) -> InputRefused:
    """Refusal of a source that has received no ``what``."""
    return InputRefused('missing', f'no {what} received yet', 'check who publishes it')


def require_fresh(what: str, sample_ns: int, stamp_ns: int) -> None:
    """Let a sample pass that is near the asked instant, before or after it.

    :raises InputRefused: ``stale``, more than :data:`MAX_AGE_S` away.
    """
    gap_ns = abs(stamp_ns - sample_ns)
    if gap_ns > round(MAX_AGE_S * 1e9):
        raise InputRefused(
            'stale',
            f'the newest {what} is {gap_ns * 1e-9:.2f} s from the image',
            'check its driver, and the clocks of both',
        )


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


class PoseMotion(MotionSource):
    """Differences of successive poses, see :class:`~.state.MotionEstimator`."""

    name = 'pose'

    def __init__(self) -> None:
        super().__init__()
        self._estimator = MotionEstimator()
        self._newest: tuple[int, MotionHint | InputRefused] | None = None

    def on_pose(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> None:
        """Take the difference to the pose before."""
        try:
            hint = self._estimator.update(stamp_ns, position, quat_xyzw)
        except InputRefused as refusal:
            self._newest = stamp_ns, refusal
            return
        if hint is not None:
            self._newest = stamp_ns, hint

    def reset(self) -> None:
        """Forget the poses."""
        super().reset()
        self._estimator.reset()
        self._newest = None

    def _estimate(self, stamp_ns: int) -> MotionHint:
        if self._newest is None:
            raise nothing_yet(f'pair of poses at most {MAX_AGE_S:g} s apart')
        sample_ns, outcome = self._newest
        require_fresh('pose', sample_ns, stamp_ns)
        if isinstance(outcome, InputRefused):
            raise outcome
        return outcome


class ActionMotion(MotionSource):
    """The step of the last chunk that is active at the instant: commanded, not measured.

    Step ``i`` is active in ``[stamp + i dt, stamp + (i + 1) dt)``, as the executor has it.
    """

    name = 'actions'

    def __init__(self) -> None:
        super().__init__()
        self._chunk: ActionChunk | None = None

    def on_chunk(self, chunk: ActionChunk) -> None:
        """Keep it in place of the one before."""
        self._chunk = chunk

    def reset(self) -> None:
        """Forget the chunk."""
        super().reset()
        self._chunk = None

    def _estimate(self, stamp_ns: int) -> MotionHint:
        chunk = self._chunk
        if chunk is None:
            raise nothing_yet('chunk')
        # Whole nanoseconds: a float would put an instant on a boundary into either step.
        step = (stamp_ns - chunk.stamp_ns) // round(chunk.dt_s * 1e9)
        if not 0 <= step < len(chunk):
            raise InputRefused(
                'inactive',
                f'the last chunk {"is over" if step > 0 else "begins later"}',
                'nothing is commanded at this instant; plan more often where it recurs',
            )
        return twist_hint(chunk.deltas[step] / chunk.dt_s, self.name)


LISTENS = {
    PoseMotion.name: ('ee_pose',),
    JacobianMotion.name: ('joint_states',),
    JointSpeedMotion.name: ('joint_states',),
    ActionMotion.name: (),
}
"""Source -> the streams that it must hear."""

SOURCES = (JacobianMotion.name, JointSpeedMotion.name, PoseMotion.name, ActionMotion.name)
"""Values of the parameter that chooses a source."""


def build_motion(
    source: str,
    *,
    urdf: str = '',
    tip: str = '',
    base: str = '',
    reach_m: float = 0.0,
    joints: Sequence[str] = (),
    gripper_joints: Sequence[str] = (),
) -> MotionSource:
    """The source that a user chose; what it does not need is ignored.

    :param source: one of :data:`SOURCES`.
    :param urdf: for ``joint_velocities``: XML text, path or ``package://name/path``.
    :param tip: for ``joint_velocities``: link whose motion counts.
    :param base: for ``joint_velocities``: link it moves relative to; empty for the root.
    :param reach_m: for ``joint_speed``: length of the stretched arm in m.
    :param joints: for ``joint_speed``: joints of the arm; empty strings do not count.
    :param gripper_joints: for ``joint_speed``: left out where no ``joints`` are named.
    :raises ProfileError: an unknown source, one without what it needs, or an unusable value.
    """
    if source == JacobianMotion.name:
        _require(source, 'URDF', urdf, 'an XML text, a path or package://name/path')
        _require(source, 'tip', tip, 'the link of the hand')
    named = [tuple(name for name in group if name) for group in (joints, gripper_joints)]
    builders: dict[str, Callable[[], MotionSource]] = {
        JacobianMotion.name: lambda: JacobianMotion(urdf, tip, base),
        JointSpeedMotion.name: lambda: JointSpeedMotion(reach_m, *named),
        PoseMotion.name: PoseMotion,
        ActionMotion.name: ActionMotion,
    }
    if source not in builders:
        raise ProfileError(f'motion source {source!r} is unknown', f'use {", ".join(SOURCES)}')
    return builders[source]()


def _require(source: str, what: str, value: str, remedy: str) -> None:
    if not value:
        raise ProfileError(f'motion source {source!r} needs a {what}', f'give {remedy}')
