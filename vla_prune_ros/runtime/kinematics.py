"""Where a robot description comes from: XML text, a file, or a ``package://`` address.

Velocity of an arm's tip from the positions and velocities of its joints.

Pinocchio (package ``pin``) reads the URDF; it is imported when the first arm is built. Meshes and
inertias are not looked at, so their files need not exist.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..errors import ProfileError
from .state import joints_proprio

PACKAGE_SCHEME = 'package://'


def resolve_urdf(value: str) -> str:
    """Text of a URDF, wherever it is given.

    ``package://name/path`` is looked up as ROS does it, in ``share/name/path`` below every prefix
    of the environment variable ``AMENT_PREFIX_PATH``, the first one first. Where no prefix has
    the file, it is looked up in the installed Python package ``name``, which is not imported.

    :param value: XML text (begins with ``<``), a path, or ``package://name/path``.
    :returns: XML text; whether it is a URDF is not checked here.
    :raises ProfileError: no such file, or it cannot be read as UTF-8 text.
    """
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
    for folder in _package_folders(name):
        if (folder / inside).is_file():
            return folder / inside
    found = ', '.join(map(str, _package_folders(name)))
    raise ProfileError(
        f'URDF {address} was not found'
        + (f' in {found}' if found else f': no package {name!r} in AMENT_PREFIX_PATH or Python'),
        'correct the path' if found else "source the package's workspace or install it",
    )


def _package_folders(name: str) -> Iterator[Path]:
    """Folders that hold the files of a package: ROS shares, then the Python package."""
    if not name.isidentifier():  # a dotted name would import its parent
        return
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        share = Path(prefix, 'share', name)
        if prefix and share.is_dir():
            yield share
    spec = find_spec(name)
    yield from map(Path, (spec and spec.submodule_search_locations) or ())


@dataclass(frozen=True)
class Mimic:
    """A joint that follows another one: ``position = multiplier * leader + offset``.

    Source: the element ``mimic`` of the URDF specification.
    """

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

    :param urdf: text of the URDF, macros expanded.
    :param tip: link whose motion counts, for example the hand.
    :param base: link relative to which it moves and whose axes are used; empty for the root.
    :raises ProfileError: pinocchio is not installed, the URDF is unusable, ``tip`` or ``base`` is
        none of its links, no joint lies between them, or one that a joint state cannot describe
        (floating, planar).
    """

    def __init__(self, urdf: str, tip: str, base: str = '') -> None:
        self._pin = _import_pinocchio()
        robot = _parse(urdf)
        self._model = _build(self._pin, urdf)
        self._data = self._model.createData()
        self._neutral = self._pin.neutral(self._model)
        self._tip = self._link(tip, 'tip')
        self._base = self._link(base, 'base') if base else 0
        slots = self._chain(tip, base)
        self.joints: tuple[str, ...] = tuple(slots)
        """Names of the movable joints between base and tip; a joint state must have these."""
        self._slots = tuple(slots.values())
        self._mimics = {j: rule for j, rule in _mimics(robot).items() if j in slots}
        leaders = {rule.leader for rule in self._mimics.values()}
        self.heard = frozenset(self.joints) | leaders
        """Names of all joints whose values :meth:`read` may use."""

    def read(
        self, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a joint state says of this chain's joints, whatever its order and other joints.

        A mimic joint that the message lacks follows from its leader, as the URDF prescribes.

        :returns: positions and velocities, float64 (len(self.joints),) each, SI units.
        :raises InputRefused: ``missing_joint``, ``length`` (for example no velocities) or
            ``non_finite``.
        """
        present = set(names)
        own = {joint: Mimic(joint, 1.0, 0.0) for joint in self.joints}
        rules = [own[j] if j in present else self._mimics.get(j, own[j]) for j in self.joints]
        wanted = [rule.leader for rule in rules]
        factors = np.array([rule.multiplier for rule in rules])
        offsets = np.array([rule.offset for rule in rules])
        q = joints_proprio(names, positions, wanted) * factors + offsets
        rates = joints_proprio(names, velocities, wanted, 'velocity', 'velocities')
        return q, rates * factors

    def twist(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """``J(q) q'``: velocity of the tip relative to the base.

        The twists of both links are taken in pinocchio's ``LOCAL_WORLD_ALIGNED`` frame. Of the
        tip's, the part that the base alone would carry along is subtracted, ``v_base + w_base x
        (p_tip - p_base)``; the rest is turned into the base's axes.

        :param positions: (len(self.joints),) in the order of :attr:`joints`, rad or m.
        :param velocities: likewise, rad/s or m/s.
        :returns: float64 (6,): linear velocity of the tip's origin in m/s, angular velocity in
            rad/s, along the axes of the base.
        """
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
        """Joints that move one of the two links and not the other, from the root outwards."""
        model = self._model
        ends = [set(model.supports[model.frames[f].parentJoint]) for f in (self._tip, self._base)]
        ids = sorted(ends[0] ^ ends[1])
        where = f'between base {base or "(root)"} and tip {tip}'
        for joint in ids:
            if model.joints[joint].nv != 1:
                raise ProfileError(
                    f'joint {model.names[joint]!r} {where} is floating or planar',
                    'name a base link above which it lies',
                )
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


def _build(pin: ModuleType, urdf: str) -> Any:
    try:
        return pin.buildModelFromXML(urdf)
    except (ValueError, RuntimeError) as error:
        raise ProfileError(
            'pinocchio refuses the URDF (stderr says more)', 'check it: check_urdf FILE'
        ) from error


def _mimics(robot: ElementTree.Element) -> dict[str, Mimic]:
    """Rules of the joints that follow another one, by name; pinocchio has read the numbers."""
    rules = {}
    for joint in robot.findall('joint'):
        mimic = joint.find('mimic')
        if mimic is not None:
            rules[joint.get('name', '')] = Mimic(
                mimic.get('joint', ''),
                float(mimic.get('multiplier', 1.0)),
                float(mimic.get('offset', 0.0)),
            )
    return rules
