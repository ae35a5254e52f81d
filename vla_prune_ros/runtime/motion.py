"""How fast the end effector moves, from poses, joint states through a URDF, or commands.

The pruning controller keeps more tokens while the arm moves slowly, descends, or where its motion
is not known: nothing is guessed. Pinocchio (package ``pin``) reads URDFs; it is imported when the
first arm is built, and needs no meshes."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..errors import InputRefused, ProfileError
from ..records import ActionChunk, MotionHint
from .state import Vector, joints_proprio, require_finite, unit_quaternion

Names = Sequence[str]
PACKAGE_SCHEME = 'package://'

_MAX_AGE_S = 0.5  # a sample further than this from the asked instant says nothing about it
_WINDOW_NS = 50_000_000


class MotionSource(ABC):
    """Takes in what arrives, and gives the motion at an instant. Not thread-safe.
    Every source may be given every input and ignores what it does not use. Inputs never raise; a
    bad one makes the motion unknown."""

    name: str  # of the parameter's choices, and of its hints

    def __init__(self) -> None:
        self._why = ''

    def on_joints(  # noqa: B027
        self, stamp_ns: int, names: Names, positions: Vector, velocities: Vector
    ) -> None:
        """A joint state: rad and rad/s, for prismatic joints m and m/s; any order."""

    def on_pose(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> None:  # noqa: B027
        """A pose of the end effector in the base frame: (3,) in m and (4,) of either sign."""

    def on_chunk(self, chunk: ActionChunk) -> None:  # noqa: B027
        """The chunk that was commanded last."""

    def reset(self) -> None:
        """For a new episode or after a jump of the clock."""
        self._why = ''

    def at(self, stamp_ns: int) -> MotionHint | None:
        """None where it is unknown."""
        try:
            hint, self._why = self._estimate(stamp_ns), ''
        except InputRefused as refusal:
            hint, self._why = None, str(refusal)
        return hint

    def why(self) -> str:
        """Why the last :meth:`at` gave None, in one line; empty where it gave a motion."""
        return self._why

    @abstractmethod
    def _estimate(self, stamp_ns: int) -> MotionHint:
        """:raises InputRefused: the motion is unknown."""


class PoseMotion(MotionSource):
    """Mean speeds since the newest pose that is 50 ms older, or else since the oldest one.
    Noise of 0.1 mm between two poses at 1 kHz would be 0.1 m/s, over 50 ms it is 2 mm/s. A gap
    above 0.5 s begins anew."""

    name = 'pose'

    def __init__(self) -> None:
        super().__init__()
        self._poses: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self._newest: tuple[int, MotionHint | InputRefused] | None = None

    def on_pose(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> None:
        try:
            position = np.array(position, np.float64)
            require_finite(position, 'end-effector position', 'xyz')
            quat = unit_quaternion(quat_xyzw)
        except InputRefused as refusal:  # the poses before stay
            self._newest = stamp_ns, refusal
            return
        poses = self._poses
        if poses and not 0.0 < (stamp_ns - poses[-1][0]) * 1e-9 <= _MAX_AGE_S:
            poses.clear()
        poses.append((stamp_ns, position, quat))
        if len(poses) == 1:
            return
        while stamp_ns - poses[1][0] >= _WINDOW_NS:
            poses.popleft()
        since_ns, last_position, last_quat = poses[0]
        dt_s = (stamp_ns - since_ns) * 1e-9
        velocity = (position - last_position) / dt_s
        hint = MotionHint(
            linear_m_s=float(np.linalg.norm(velocity)),
            angular_rad_s=_angle_between(last_quat, quat) / dt_s,
            vertical_m_s=float(velocity[2]),
            source=self.name,
        )
        self._newest = stamp_ns, hint

    def reset(self) -> None:
        super().reset()
        self._poses.clear()
        self._newest = None

    def _estimate(self, stamp_ns: int) -> MotionHint:
        if self._newest is None:
            raise _nothing_yet(f'pair of poses at most {_MAX_AGE_S:g} s apart')
        sample_ns, outcome = self._newest
        _require_fresh('pose', sample_ns, stamp_ns)
        if isinstance(outcome, InputRefused):
            raise outcome
        return outcome


class JointMotion(MotionSource):
    """Keeps the newest joint state that concerns the arm: a driver of the gripper may publish its
    own on the same topic. One that has some of the joints only is not completed from older ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sample: tuple[int, Names, Vector, Vector] | None = None

    def on_joints(
        self, stamp_ns: int, names: Names, positions: Vector, velocities: Vector
    ) -> None:
        if self._sample is None or self._concerned(names) or not self._concerned(self._sample[1]):
            self._sample = (stamp_ns, names, positions, velocities)

    def reset(self) -> None:
        super().reset()
        self._sample = None

    @abstractmethod
    def _concerned(self, names: Names) -> bool:
        """Whether a message with these joints has at least one of the arm."""

    def _newest(self, stamp_ns: int) -> tuple[Names, Vector, Vector]:
        if self._sample is None:
            raise _nothing_yet('joint state')
        _require_fresh('joint state', self._sample[0], stamp_ns)
        return self._sample[1:]


class JacobianMotion(JointMotion):
    """``J(q) q'`` of the tip relative to the base, ``vertical_m_s`` along the base's z.
    Without velocities the motion is unknown; zeros cannot be told from an arm at rest."""

    name = 'joint_velocities'

    def __init__(self, urdf: str, tip: str, base: str = '') -> None:
        super().__init__()
        for value, what in ((urdf, 'URDF (XML, a path, package://name/path)'), (tip, 'tip link')):
            if not value:
                raise ProfileError(f'motion source {self.name!r} needs a {what}', 'name it')
        self.arm = ArmKinematics(resolve_urdf(urdf), tip, base)

    def _concerned(self, names: Names) -> bool:
        return not self.arm.heard.isdisjoint(names)

    def _estimate(self, stamp_ns: int) -> MotionHint:
        twist = self.arm.twist(*self.arm.read(*self._newest(stamp_ns)))
        return _twist_hint(twist, self.name)


class JointSpeedMotion(JointMotion):
    """A rough measure without a URDF, for revolute joints: the fastest at the end of a lever.

    ``linear_m_s`` is ``max |q'| * reach_m``; with ``n`` joints in motion the true speed lies
    between 0 and ``n`` times that. ``angular_rad_s`` is ``sum |q'|``, never less than the true
    one. ``vertical_m_s`` is 0: neither a rise nor a descent is seen.

    :param joints: of the arm; empty for all but ``gripper_joints``.
    :raises ProfileError: ``reach_m`` is not above 0."""

    name = 'joint_speed'

    def __init__(self, reach_m: float, joints: Names = (), gripper_joints: Names = ()) -> None:
        super().__init__()
        if not (np.isfinite(reach_m) and reach_m > 0):
            what = f'motion source {self.name!r} has a reach of {reach_m} m'
            raise ProfileError(what, 'give the length of the stretched arm, in m')
        self._reach_m = reach_m
        # ROS has no empty array of strings with a type: such a parameter holds one ''.
        self._joints, self._gripper = tuple(filter(None, joints)), frozenset(gripper_joints)

    def _wanted(self, names: Names) -> tuple[str, ...]:
        return self._joints or tuple(name for name in names if name not in self._gripper)

    def _concerned(self, names: Names) -> bool:
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


class ActionMotion(MotionSource):
    """The active step of the last chunk, as the executor has it: commanded, not measured."""

    name = 'actions'

    def __init__(self) -> None:
        super().__init__()
        self._chunk: ActionChunk | None = None

    def on_chunk(self, chunk: ActionChunk) -> None:
        self._chunk = chunk

    def reset(self) -> None:
        super().reset()
        self._chunk = None

    def _estimate(self, stamp_ns: int) -> MotionHint:
        chunk = self._chunk
        if chunk is None:
            raise _nothing_yet('chunk')
        # Whole nanoseconds: a float would put an instant on a boundary into either step.
        step = (stamp_ns - chunk.stamp_ns) // round(chunk.dt_s * 1e9)
        if not 0 <= step < len(chunk):
            raise InputRefused(
                'inactive',
                f'the last chunk {"is over" if step > 0 else "begins later"}',
                'nothing is commanded at this instant; plan more often where it recurs',
            )
        return _twist_hint(chunk.deltas[step] / chunk.dt_s, self.name)


# Source -> the streams that it must hear.
LISTENS = {
    JacobianMotion.name: ('joint_states',),
    JointSpeedMotion.name: ('joint_states',),
    PoseMotion.name: ('ee_pose',),
    ActionMotion.name: (),
}


def _nothing_yet(what: str) -> InputRefused:
    return InputRefused('missing', f'no {what} received yet', 'check who publishes it')


def _require_fresh(what: str, sample_ns: int, stamp_ns: int) -> None:
    gap_ns = abs(stamp_ns - sample_ns)
    if gap_ns > round(_MAX_AGE_S * 1e9):
        raise InputRefused(
            'stale',
            f'the newest {what} is {gap_ns * 1e-9:.2f} s from the image',
            'check its driver, and the clocks of both',
        )


def _twist_hint(twist: np.ndarray, source: str) -> MotionHint:
    linear, angular = float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))
    return MotionHint(linear, angular, float(twist[2]), source)


def _angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """rad, 0 ... pi, from unit quaternion ``a`` to ``b``."""
    # |a - b| and |a + b| are 2 sin and 2 cos of a quarter of the angle; unlike acos of the dot
    # product this keeps its precision for the small angles between two samples.
    low, high = sorted((float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b))))
    return 4.0 * float(np.arctan2(low, high))


# --- the arm of a URDF ---------------------------------------------------------------------------


def resolve_urdf(value: str) -> str:
    """XML text of a URDF, given as itself, a path, or ``package://name/path``, which is searched
    in ``share/name`` below every prefix in ``AMENT_PREFIX_PATH``, then in the Python package.
    :raises ProfileError: no such file, or it cannot be read as UTF-8 text."""
    text = value.lstrip('\ufeff \t\r\n')
    if text.startswith('<'):
        return text
    path = _in_package(value) if value.startswith(PACKAGE_SCHEME) else Path(value).expanduser()
    try:
        return path.read_text(encoding='utf-8-sig').lstrip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'
        raise ProfileError(
            f'URDF {path} cannot be read: {reason}',
            'give a path, package://name/path, or the XML text itself',
        ) from error


def _in_package(address: str) -> Path:
    name, _, inside = address.removeprefix(PACKAGE_SCHEME).partition('/')
    folders = list(_package_folders(name))
    for folder in folders:
        if (folder / inside).is_file():
            return folder / inside
    found = ', '.join(map(str, folders))
    raise ProfileError(
        f'URDF {address} was not found'
        + (f' in {found}' if found else f': no package {name!r} in AMENT_PREFIX_PATH or Python'),
        'correct the path' if found else "source the package's workspace or install it",
    )


def _package_folders(name: str) -> Iterator[Path]:
    if not name.isidentifier():  # a dotted name would import its parent
        return
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        share = Path(prefix, 'share', name)
        if prefix and share.is_dir():
            yield share
    spec = find_spec(name)
    yield from map(Path, (spec and spec.submodule_search_locations) or ())


@dataclass(frozen=True)
class _Mimic:
    """A joint that follows another one: ``position = multiplier * leader + offset`` (URDF)."""

    leader: str
    multiplier: float
    offset: float


@dataclass(frozen=True)
class _Slot:
    """Where a joint lives in pinocchio's vectors; ``turns``: its position is a cos and a sin."""

    q: int
    v: int
    turns: bool


class ArmKinematics:
    """The chain of joints between two links of a URDF, and how its tip moves.

    :param urdf: its text, macros expanded.
    :param tip: link whose motion counts, relative to the link ``base`` (empty for the root).
    :raises ProfileError: pinocchio is not installed, the URDF is unusable, a link is unknown, or
        no joint lies between the two, or one that a joint state cannot describe."""

    def __init__(self, urdf: str, tip: str, base: str = '') -> None:
        self._pin = _import_pinocchio()
        robot = _parse(urdf)
        try:
            self._model: Any = self._pin.buildModelFromXML(urdf)
        except (ValueError, RuntimeError) as error:
            raise ProfileError(
                'pinocchio refuses the URDF (stderr says more)', 'check it: check_urdf FILE'
            ) from error
        self._data = self._model.createData()
        self._neutral = self._pin.neutral(self._model)
        self._tip = self._link(tip, 'tip')
        self._base = self._link(base, 'base') if base else 0
        slots = self._chain(tip, base)
        self.joints: tuple[str, ...] = tuple(slots)  # from the root outwards
        self._slots = tuple(slots.values())
        self._mimics = {j: rule for j, rule in _mimics(robot).items() if j in slots}
        leaders = {rule.leader for rule in self._mimics.values()}
        self.heard = frozenset(self.joints) | leaders  # all whose values read() may use

    def read(
        self, names: Names, positions: Vector, velocities: Vector
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of :attr:`joints` in a joint state, float64; a mimic joint that
        it lacks follows from its leader. Refusals: :func:`.state.joints_proprio`."""
        present = set(names)
        own = {joint: _Mimic(joint, 1.0, 0.0) for joint in self.joints}
        rules = [own[j] if j in present else self._mimics.get(j, own[j]) for j in self.joints]
        wanted = [rule.leader for rule in rules]
        factors = np.array([rule.multiplier for rule in rules])
        offsets = np.array([rule.offset for rule in rules])
        q = joints_proprio(names, positions, wanted) * factors + offsets
        rates = joints_proprio(names, velocities, wanted, 'velocity', 'velocities')
        return q, rates * factors

    def twist(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """``J(q) q'`` of :attr:`joints`: float64 (6,) velocity of the tip relative to the base, of
        its origin in m/s and angular in rad/s, along the base's axes.

        Of the tip's twist in the world's axes, what the base alone would carry along is
        subtracted, ``v_base + w_base x (p_tip - p_base)``; the rest is turned into the base's."""
        pin, model, data = self._pin, self._model, self._data
        pin.forwardKinematics(model, data, *self._vectors(positions, velocities))
        frames = (self._tip, self._base)
        at_tip, at_base = (pin.updateFramePlacement(model, data, frame) for frame in frames)
        axes = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        tip, base = (pin.getFrameVelocity(model, data, frame, axes) for frame in frames)
        carried = base.linear + np.cross(base.angular, at_tip.translation - at_base.translation)
        turn = at_base.rotation.T
        return np.concatenate((turn @ (tip.linear - carried), turn @ (tip.angular - base.angular)))

    def _vectors(
        self, positions: np.ndarray, velocities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pinocchio's configuration and velocity; joints off the chain rest at neutral."""
        q, v = self._neutral.copy(), np.zeros(self._model.nv)
        for slot, position, velocity in zip(self._slots, positions, velocities, strict=True):
            v[slot.v] = velocity
            if slot.turns:
                q[slot.q : slot.q + 2] = np.cos(position), np.sin(position)
            else:
                q[slot.q] = position
        return q, v

    def _link(self, name: str, what: str) -> int:
        body = self._pin.FrameType.BODY
        if self._model.existFrame(name, body):
            return int(self._model.getFrameId(name, body))
        links = ', '.join(frame.name for frame in self._model.frames if frame.type == body)
        raise ProfileError(f'the URDF has no {what} link {name!r}', f'its links are: {links}')

    def _chain(self, tip: str, base: str) -> dict[str, _Slot]:
        """Joints that move one of the two links and not the other."""
        model = self._model
        ends = [set(model.supports[model.frames[f].parentJoint]) for f in (self._tip, self._base)]
        ids = sorted(ends[0] ^ ends[1])
        where = f'between base {base or "(root)"} and tip {tip}'
        for joint in ids:
            if model.joints[joint].nv != 1:
                what = f'joint {model.names[joint]!r} {where} is floating or planar'
                raise ProfileError(what, 'name a base link above which it lies')
        if not ids:
            raise ProfileError(f'no joint {where} moves', 'name links with the arm between them')
        joints = [(model.names[i], model.joints[i]) for i in ids]
        return {name: _Slot(j.idx_q, j.idx_v, j.nq == 2) for name, j in joints}


def _import_pinocchio() -> ModuleType:
    try:
        import pinocchio

        if hasattr(pinocchio, 'buildModelFromXML'):  # PyPI's "pinocchio" is another project
            return pinocchio
    except ImportError:
        pass
    raise ProfileError(
        'pinocchio is not installed, the Jacobian of a URDF needs it',
        "install the extra: pip install 'vla_prune_ros[motion]', or ros-$ROS_DISTRO-pinocchio",
    )


def _parse(urdf: str) -> ElementTree.Element:
    try:
        robot = ElementTree.fromstring(urdf)
    except (ElementTree.ParseError, ValueError) as error:
        raise ProfileError(f'the URDF is not XML: {error}', 'check the file') from error
    if any(str(element.tag).rpartition('}')[0].endswith('/xacro') for element in robot.iter()):
        raise ProfileError('the URDF still has xacro macros', 'expand it first: xacro FILE')
    if robot.tag != 'robot':
        raise ProfileError(f'the XML begins with <{robot.tag}>, not <robot>', 'give a URDF')
    return robot


def _mimics(robot: ElementTree.Element) -> dict[str, _Mimic]:
    rules = {}
    for joint in robot.findall('joint'):
        mimic = joint.find('mimic')
        if mimic is not None:
            rules[joint.get('name', '')] = _Mimic(
                leader=mimic.get('joint', ''),
                multiplier=float(mimic.get('multiplier', 1.0)),
                offset=float(mimic.get('offset', 0.0)),
            )
    return rules
