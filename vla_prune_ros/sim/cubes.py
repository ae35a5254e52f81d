"""The cubes of robosuite's Stack scene: where they are and what they touch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BODIES = {'red': 'cubeA_main', 'green': 'cubeB_main'}
"""Colour -> name of the MuJoCo body."""

_GEOMS = {'red': 'cubeA_g0', 'green': 'cubeB_g0'}
_TOUCHED = {
    'world': 'floor',
    'table': 'table',
    'gripper0_leftfinger': 'finger1',
    'gripper0_finger_joint1_tip': 'finger1',
    'gripper0_rightfinger': 'finger2',
    'gripper0_finger_joint2_tip': 'finger2',
    **{body: colour for colour, body in BODIES.items()},
}
_FINGERS = frozenset({'finger1', 'finger2'})


@dataclass(frozen=True)
class Cube:
    """One cube now, and where it lay when the episode began.

    :param position: float64 (3,), centre, m.
    :param rotation: float64 (3, 3), the cube's axes as columns.
    :param rest: float64 (3,), centre after the reset, m.
    :param half_m: half of the edge.
    :param speed_m_s: speed of the centre.
    :param touching: what it is in contact with: cubes by colour, ``'table'``, ``'finger1'``,
        ``'finger2'``, ``'robot'`` (its other parts), ``'floor'``.
    """

    position: np.ndarray
    rotation: np.ndarray
    rest: np.ndarray
    half_m: float
    speed_m_s: float
    touching: frozenset[str]

    @property
    def between_fingers(self) -> bool:
        """Whether both fingers touch it."""
        return self.touching >= _FINGERS

    @property
    def released(self) -> bool:
        """Whether no part of the robot touches it."""
        return self.touching.isdisjoint(_FINGERS | {'robot'})


Cubes = Mapping[str, Cube]
"""Colour -> cube."""


def cube_position(sim: Any, colour: str) -> np.ndarray:
    """Centre in the world frame, float64 (3,), m."""
    return np.array(sim.data.get_body_xpos(BODIES[colour]), dtype=np.float64)


def read_cubes(sim: Any, rest: Mapping[str, np.ndarray]) -> dict[str, Cube]:
    """Both cubes as they are now.

    :param sim: robosuite's ``MjSim``.
    :param rest: colour -> float64 (3,), centre after the reset, m.
    """
    touching = _contacts(sim)
    return {colour: _cube(sim, colour, rest[colour], touching[colour]) for colour in BODIES}


def _cube(sim: Any, colour: str, rest: np.ndarray, touching: set[str]) -> Cube:
    body, geom = BODIES[colour], sim.model.geom_name2id(_GEOMS[colour])
    return Cube(
        position=cube_position(sim, colour),
        rotation=np.array(sim.data.get_body_xmat(body), dtype=np.float64).reshape(3, 3),
        rest=rest,
        half_m=float(sim.model.geom_size[geom][0]),
        speed_m_s=float(np.linalg.norm(sim.data.get_body_xvelp(body))),
        touching=frozenset(touching),
    )


def _contacts(sim: Any) -> dict[str, set[str]]:
    def name(geom: int) -> str:
        return _TOUCHED.get(sim.model.body_id2name(sim.model.geom_bodyid[geom]), 'robot')

    found: dict[str, set[str]] = {colour: set() for colour in BODIES}
    for contact in sim.data.contact[: sim.data.ncon]:
        pair = name(contact.geom1), name(contact.geom2)
        for one, other in (pair, pair[::-1]):
            if one in found:
                found[one].add(other)
    return found
