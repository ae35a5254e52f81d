"""How fast the end effector moves: the sources that need no joint state, and the choice of one.

The pruning controller keeps more tokens while the arm moves slowly or descends.
"""

from collections.abc import Callable, Sequence

from ..errors import InputRefused, ProfileError
from ..records import ActionChunk, MotionHint
from .joint_motion import JacobianMotion, JointSpeedMotion
from .motion_source import MAX_AGE_S, MotionSource, nothing_yet, require_fresh, twist_hint
from .state import MotionEstimator, Vector

__all__ = ['SOURCES', 'ActionMotion', 'MotionSource', 'PoseMotion', 'build_motion']


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


def _require(source: str, what: str, value: str, mend: str) -> None:
    if not value:
        raise ProfileError(f'motion source {source!r} needs a {what}', f'give {mend}')
