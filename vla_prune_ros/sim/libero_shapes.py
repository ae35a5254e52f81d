"""MuJoCo primitives as XML text, in the form in which LIBERO's environments read their objects.

Lengths in metres, half extents as in MuJoCo, colours as RGBA in 0 .. 1.
"""

import math
from collections.abc import Sequence

Rgba = tuple[float, float, float, float]
"""Red, green, blue and opacity."""

UPRIGHT = (1.0, 0.0, 0.0, 0.0)
"""No rotation, quaternion (w, x, y, z)."""

Y_UP = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""A quarter turn about x: what stood along z lies along y, as in LIBERO's bottles and cans."""

X_LONG = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)
"""A quarter turn about y: what stood along z lies along x."""

ROUGH = 'density="100" friction="0.95 0.3 0.1"'
"""Light, and does not slip out of a gripper."""

SMOOTH = 'density="800" friction="0.1 0.005 0.0001" priority="1"'
"""Heavy, and whatever nests in it comes out again."""

_TOUCHED = 'solref="0.001 1" solimp="0.998 0.998 0.001" group="0"'
_SEEN = 'conaffinity="0" contype="0" mass="0" group="1"'


def numbers(values: Sequence[float]) -> str:
    """Values as MuJoCo reads them, six digits."""
    return ' '.join(f'{value:.6g}' for value in values)


def geom(
    kind: str,
    size: Sequence[float],
    pos: Sequence[float],
    rgba: Rgba,
    quat: Sequence[float] = UPRIGHT,
    surface: str = ROUGH,
) -> str:
    """One primitive twice: to be seen (robosuite's group 1) and to be touched (group 0)."""
    where = (
        f'type="{kind}" size="{numbers(size)}" pos="{numbers(pos)}" quat="{numbers(quat)}" '
        f'rgba="{numbers(rgba)}"'
    )
    return f'<geom {where} {_SEEN}/><geom {where} {surface} {_TOUCHED}/>'


def ring(
    count: int,
    radius: float,
    z: float,
    half: Sequence[float],
    rgba: Rgba,
    lean: float = 0.0,
    surface: str = ROUGH,
) -> str:
    """Boxes on a circle about z: the wall of a bowl, a mug or a plate.

    :param half: half extents of a box: across the wall, along it, upwards.
    :param lean: angle by which every box leans outwards, rad.
    """
    parts = []
    for i in range(count):
        yaw = 2.0 * math.pi * i / count
        cy, sy, cl, sl = (f(a / 2.0) for a in (yaw, lean) for f in (math.cos, math.sin))
        quat = (cy * cl, -sy * sl, cy * sl, sy * cl)
        pos = (radius * math.cos(yaw), radius * math.sin(yaw), z)
        parts.append(geom('box', half, pos, rgba, quat, surface))
    return ''.join(parts)


def crate(half: Sequence[float], floor_z: float, wall: float, rgba: Rgba) -> str:
    """A box without a lid: a floor and four walls.

    :param half: half extents of its outside; it reaches from ``floor_z`` twice the third upwards.
    :param wall: half thickness of floor and walls.
    """
    x, y, z = half
    middle = floor_z + z
    parts = [((x, y, wall), (0.0, 0.0, floor_z + wall))]
    parts += [((wall, y, z), (side * (x - wall), 0.0, middle)) for side in (-1, 1)]
    parts += [((x, wall, z), (0.0, side * (y - wall), middle)) for side in (-1, 1)]
    return ''.join(geom('box', size, pos, rgba) for size, pos in parts)


def region(name: str, half: Sequence[float], pos: Sequence[float]) -> str:
    """An invisible box by which BDDL goals tell ``In`` and ``On``."""
    return (
        f'<site name="{name}" type="box" size="{numbers(half)}" pos="{numbers(pos)}" '
        'quat="1 0 0 0" group="0" rgba="0 0 0 0"/>'
    )


def document(name: str, content: str, bottom: float = -0.06, top: float = 0.04) -> bytes:
    """An object file: its body, and the three sites by which robosuite places it.

    :param content: geoms, sites, joints and bodies of the object.
    :param bottom: where its underside counts as being when it is placed, z in its own frame. What
        lies higher falls the rest of the way while the scene settles.
    :param top: the same for its upper side.
    """
    sites = {
        'bottom_site': (0.0, 0.0, bottom),
        'top_site': (0.0, 0.0, top),
        'horizontal_radius_site': (0.025, 0.025, 0.0),
    }
    placing = ''.join(
        f'<site name="{site}" pos="{numbers(pos)}" size="0.005" rgba="0 0 0 0"/>'
        for site, pos in sites.items()
    )
    return (
        f'<mujoco model="{name}"><asset/><worldbody><body><body name="object">{content}</body>'
        f'{placing}</body></worldbody></mujoco>\n'
    ).encode()
