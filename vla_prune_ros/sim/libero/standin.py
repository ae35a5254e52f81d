"""MuJoCo primitives as XML text, in the form in which LIBERO's environments read their objects.

Lengths in metres, half extents as in MuJoCo, colours as RGBA in 0 .. 1.

Stand-ins for LIBERO's rooms: a floor, a wall, and what the objects stand on.

Stand-ins for what stands fixed in LIBERO's scenes: cabinets, stove, microwave, shelves, racks.

Joints have LIBERO's order, ranges and signs (its fixed initial states hold their positions), and
all open towards their own -y. A fixture stands still in the world, so MuJoCo lets it collide with
its own moving parts: these keep some millimetres away from it.

Stand-ins for LIBERO's movable objects: right names, rough sizes, flat colours.

Which way is up in an object's own frame, and how far above its support it starts, follow from
LIBERO's fixed initial states: cans, bottles and cartons have y up, everything else z.

A folder of generated assets: every task of LIBERO's suites builds without a download.

Names of bodies, sites and joints are those that LIBERO's code asks for, sizes are rough, colours
flat. Tasks, initial states and goals work; pictures look like nothing that a published policy has
seen, so results on them say nothing about it.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .store import cache_folder, write_tree

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


_FLOORS = (
    'light-gray-floor-tile.png',
    'gray_ceramic_tile.png',
    'seamless_wood_planks_floor.png',
)
_WALLS = ('light-gray-plaster.png', 'yellow_linen_wall_texture.png')

_TAN: Rgba = (0.78, 0.68, 0.56, 1.0)
_SLATE: Rgba = (0.52, 0.55, 0.58, 1.0)
_OAK: Rgba = (0.58, 0.43, 0.29, 1.0)

_FLOOR = (
    '<geom name="floor" type="plane" size="3 3 0.125" condim="3" group="1" material="ground"/>'
)
_CAMERAS = {
    'frontview': ((1.0, 0.0, 1.45), (0.56, 0.43, 0.43, 0.56)),
    'birdview': ((-0.2, 0.0, 3.0), (0.7071, 0.0, 0.0, 0.7071)),
    'agentview': ((0.5, 0.0, 1.35), (0.653, 0.271, 0.271, 0.653)),
    'sideview': ((0.0, 1.28, 1.49), (0.0099, 0.0069, 0.5912, 0.8064)),
}
_SCENE = """<mujoco model="{name}"><asset>
<texture name="texplane" type="2d" file="../textures/{floor}"/>
<texture name="tex-wall" type="2d" file="../textures/{wall}"/>
<material name="ground" reflectance="0" texrepeat="2 2" texture="texplane" texuniform="true"/>
<material name="walls" reflectance="0" texrepeat="3 3" texture="tex-wall" texuniform="true"/>
</asset><worldbody>
{content}
<geom name="wall" type="box" pos="-1.6 0 1.5" size="0.02 3 1.5" material="walls" conaffinity="0"
 contype="0" group="1"/>
<light name="light1" diffuse=".8 .8 .8" dir="0 -.15 -1" directional="false" pos="1 1 4"
 specular=".3 .3 .3" castshadow="false"/>
<light name="light2" diffuse=".8 .8 .8" dir="0 -.15 -1" directional="false" pos="-3 -3 4"
 specular=".3 .3 .3" castshadow="false"/>
{cameras}
</worldbody></mujoco>
"""


def arena_files() -> dict[str, bytes]:
    """Path within the asset folder -> scenes as XML and the pictures on floors and walls."""
    # What stands on the floor of libero_object starts 3.5 cm below the robot's foot.
    sunk = _FLOOR.replace('/>', ' pos="0 0 -0.035"/>')
    scenes = {
        'libero_tabletop_base_style': _FLOOR + _adjusted_table(_TAN),
        'libero_kitchen_tabletop_base_style': _FLOOR + _adjusted_table(_SLATE),
        'libero_living_room_tabletop_base_style': _FLOOR
        + _table('living_room_table', (0.35, 0.8, 0.012), (0.0, 0.0, 0.398), _OAK),
        'libero_study_base_style': _FLOOR
        + _table('study_table', (0.5, 0.6, 0.025), (-0.2, 0.0, 0.842), _OAK),
        'libero_floor_base_style': f'<body name="floor">{sunk}</body>',
    }
    cameras = ''.join(
        f'<camera mode="fixed" name="{name}" pos="{numbers(pos)}" quat="{numbers(quat)}"/>'
        for name, (pos, quat) in _CAMERAS.items()
    )
    files = {
        f'scenes/{name}.xml': _SCENE.format(
            name=name, content=content, cameras=cameras, floor=_FLOORS[0], wall=_WALLS[0]
        ).encode()
        for name, content in scenes.items()
    }
    for number, name in enumerate((*_FLOORS, *_WALLS)):
        files[f'textures/{name}'] = _checkers(120 + 20 * number)
    return files


def _top(name: str, half: tuple[float, ...], pos: tuple[float, ...], rgba: Rgba) -> str:
    where = f'type="box" size="{numbers(half)}" pos="{numbers(pos)}"'
    return (
        f'<geom name="{name}_collision" {where} friction="1 0.005 0.0001" group="0"/>'
        f'<geom name="{name}_visual" {where} rgba="{numbers(rgba)}" conaffinity="0" contype="0" '
        'group="1"/>'
    )


def _table(name: str, half: tuple[float, ...], pos: tuple[float, ...], rgba: Rgba) -> str:
    return f'<body name="{name}">{_top(name, half, pos, rgba)}</body>'


def _adjusted_table(rgba: Rgba) -> str:
    """A table of which LIBERO's code sets size, place and legs."""
    legs = ''.join(
        f'<geom name="table_leg{i}_visual" type="cylinder" size="0.025 0.1" conaffinity="0" '
        f'contype="0" group="1" rgba="{numbers(rgba)}"/>'
        for i in (1, 2, 3, 4)
    )
    top = _top('table', (0.4, 0.4, 0.4), (0.0, 0.0, 0.0), rgba)
    site = '<site name="table_top" pos="0 0 0.4" size="0.001 0.001 0.001" rgba="0 0 0 0"/>'
    return f'<body name="table" pos="0 0 0.4">{top}{legs}{site}</body>'


def _checkers(grey: int, side: int = 64) -> bytes:
    """Two shades of grey as a PNG picture."""
    shades = [bytes((grey, grey, grey - 4)), bytes((grey + 8, grey + 7, grey + 4))]
    rows = b''.join(
        b'\0' + b''.join(shades[(x // 8 + y // 8) % 2] for x in range(side)) for y in range(side)
    )
    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in chunks
    )


_WOOD_libero_fixtures: Rgba = (0.12, 0.10, 0.09, 1.0)
_PINE: Rgba = (0.66, 0.50, 0.33, 1.0)
_WHITE_libero_fixtures: Rgba = (0.86, 0.86, 0.85, 1.0)
_STEEL_libero_fixtures: Rgba = (0.62, 0.62, 0.63, 1.0)
_METAL: Rgba = (0.45, 0.45, 0.47, 1.0)
_DARK: Rgba = (0.15, 0.15, 0.16, 1.0)

_UNDERSIDE = -0.045  # places a fixture 5 mm above the table, as LIBERO's initial states imply
_DRAWERS = {'top': 0.187, 'middle': 0.117, 'bottom': 0.047}


def fixture_files() -> dict[str, bytes]:
    """Path within the asset folder -> XML of every fixture of the five suites."""
    moving = {
        'flat_stove': _stove(),
        'microwave': _microwave(),
        'white_cabinet': _cabinet(_WHITE_libero_fixtures),
        'wooden_cabinet': _cabinet(_WOOD_libero_fixtures),
    }
    still = {
        'desk_caddy': _caddy(),
        'wine_rack': _wine_rack(),
        'wooden_two_layer_shelf': _shelf(),
    }
    files = {f'articulated_objects/{name}.xml': (name, xml) for name, xml in moving.items()}
    files |= {f'turbosquid_objects/{name}/{name}.xml': (name, xml) for name, xml in still.items()}
    return {path: document(name, xml, _UNDERSIDE, 0.045) for path, (name, xml) in files.items()}


def _boxes(rgba: Rgba, *parts: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    return ''.join(geom('box', size, pos, rgba) for size, pos in parts)


def _joint(name: str, kind: str, axis: str, low: float, high: float, damping: float) -> str:
    return (
        f'<joint name="{name}" type="{kind}" axis="{axis}" limited="true" '
        f'range="{numbers((low, high))}" damping="{damping}" frictionloss="{damping / 20}" '
        'armature="0.01"/>'
    )


def _inertia(z: float, mass: float) -> str:
    moment = mass * 0.02
    return (
        f'<inertial pos="{numbers((0, 0, z))}" mass="{mass}" '
        f'diaginertia="{numbers((moment, moment, moment))}"/>'
    )


def _cabinet(rgba: Rgba) -> str:
    width, depth, height, board = 0.11, 0.10, 0.25, 0.006
    # The case ends 3 cm behind the drawers' fronts: a bowl falls into an open drawer unhindered.
    half, middle = depth - 0.015, 0.015
    case = _boxes(
        rgba,
        ((width, half, board), (0, middle, height)),
        ((width, half, board), (0, middle, board)),
        ((board, half, height / 2), (-width, middle, height / 2)),
        ((board, half, height / 2), (width, middle, height / 2)),
        ((width, board, height / 2), (0, depth, height / 2)),
    )
    case += region('top_side', (0.105, 0.094, 0.0015), (0, 0, height + board))
    drawers = ''.join(_drawer(name, z, width, depth, rgba) for name, z in _DRAWERS.items())
    return f'<body name="base">{case}{drawers}</body>'


def _drawer(name: str, z: float, width: float, depth: float, rgba: Rgba) -> str:
    front, back = -depth - 0.015, depth - 0.02
    long, middle = (back - front) / 2, (back + front) / 2
    sides = [((0.002, long, 0.02), (s * (width - 0.022), middle, z)) for s in (-1, 1)]
    box = _boxes(
        rgba,
        ((width - 0.02, 0.003, 0.025), (0, front, z - 0.003)),
        ((width - 0.02, 0.002, 0.02), (0, back, z)),
        ((width - 0.02, long, 0.002), (0, middle, z - 0.028)),
        *sides,
    )
    posts = [((0.004, 0.014, 0.004), (s * 0.04, front - 0.014, z)) for s in (-1, 1)]
    handle = _boxes(_METAL, *posts)
    handle += geom('cylinder', (0.005, 0.045), (0, front - 0.028, z), _METAL, X_LONG)
    joint = _joint(f'{name}_level', 'slide', '0 1 0', -0.16, 0.01, 20)
    inside = region(f'{name}_region', (0.1, 0.0756, 0.03), (0, 0.01, z))
    return f'<body name="cabinet_{name}">{_inertia(z, 0.5)}{joint}{box}{handle}{inside}</body>'


def _stove() -> str:
    steel = _boxes(
        _STEEL_libero_fixtures,
        ((0.09, 0.09, 0.015), (0.15, 0, 0.015)),
        ((0.05, 0.09, 0.015), (0.0, 0, 0.015)),
    )
    plate = geom('cylinder', (0.06, 0.002), (0, 0, 0.001), _DARK)
    flame = (
        '<body name="burner_plate"><site name="burner" type="cylinder" size="0.0625 0.0005" '
        'pos="0 0 0.004" rgba="0.9 0.05 0.05 0"/></body>'
    )
    cook = region('cook_region', (0.075, 0.075, 0.0025), (0, 0, 0))
    burner = f'<body name="burner" pos="0.15 0 0.03">{plate}{cook}{flame}</body>'
    knob = _boxes(_DARK, ((0.02, 0.006, 0.012), (0, 0, 0.014)))
    joint = _joint('button', 'hinge', '0 0 1', -0.01, 2.1, 1)
    button = f'<body name="button" pos="0 0 0.03">{_inertia(0, 0.05)}{joint}{knob}</body>'
    return f'<body name="base">{steel}{burner}{button}</body>'


def _microwave() -> str:
    width, depth, height, board = 0.13, 0.11, 0.25, 0.008
    case = _boxes(
        _WHITE_libero_fixtures,
        ((width, depth, board), (0, 0, height)),
        ((width, depth, board), (0, 0, board)),
        ((board, depth, height / 2), (-width, 0, height / 2)),
        ((board, depth, height / 2), (width, 0, height / 2)),
        ((width, board, height / 2), (0, depth, height / 2)),
    )
    case += region('top_side', (0.12, 0.10, 0.0015), (0, 0, height + board))
    case += region('heating_region', (0.11, 0.09, 0.09), (0, 0, 0.10))
    # Hinged on the left as seen from the front; the handle is on the other side.
    front = _boxes(_DARK, ((width - 0.004, 0.005, height / 2), (width, 0, height / 2)))
    front += _boxes(_METAL, ((0.005, 0.012, 0.06), (1.8 * width, -0.018, height / 2)))
    joint = _joint('microjoint', 'hinge', '0 0 1', -2.094, 0.0, 1)
    door = f'<body name="door" pos="{numbers((-width, -depth - 0.012, 0.004))}">'
    door += f'{_inertia(height / 2, 0.3)}{joint}{front}</body>'
    return f'<body name="base">{case}{door}</body>'


def _shelf() -> str:
    width, depth, board = 0.14, 0.09, 0.006
    levels = (0.006, 0.120, 0.234)
    boards = [((width, depth, board), (0, 0, z)) for z in levels]
    sides = [((board, depth, 0.12), (s * width, 0, 0.12)) for s in (-1, 1)]
    content = _boxes(_PINE, *boards, *sides)
    content += region('bottom_region', (0.125, 0.085, 0.050), (0, 0, 0.060))
    content += region('top_region', (0.125, 0.085, 0.050), (0, 0, 0.174))
    return content + region('top_side', (0.13, 0.085, 0.0015), (0, 0, levels[-1] + board))


def _wine_rack() -> str:
    """A bench with a rail on either side: a bottle stands or lies on it."""
    legs = [((0.008, 0.06, 0.05), (s * 0.07, 0, 0.05)) for s in (-1, 1)]
    rails = [((0.004, 0.06, 0.012), (s * 0.074, 0, 0.116)) for s in (-1, 1)]
    content = _boxes(_PINE, *legs, *rails, ((0.078, 0.06, 0.005), (0, 0, 0.105)))
    return content + region('top_region', (0.070, 0.055, 0.002), (0, 0, 0.110))


def _caddy() -> str:
    """A tray of four compartments, as wide as a book is: two across at the sides, two between."""
    inner, outer, half = 0.053, 0.105, 0.035
    content = crate((0.075, outer, half), 0.0, 0.003, _METAL)
    walls = [((0.072, 0.002, half), (0, s * inner, half)) for s in (-1, 1)]
    content += _boxes(_METAL, *walls, ((0.002, inner, half), (0, 0, half)))
    middle = (inner + outer) / 2
    across, along = (0.070, 0.030, 0.09), (0.036, 0.050, 0.09)
    content += region('left_contain_region', across, (0, middle, 0.09))
    content += region('right_contain_region', across, (0, -middle, 0.09))
    content += region('front_contain_region', along, (0.037, 0, 0.09))
    return content + region('back_contain_region', along, (-0.037, 0, 0.09))


BOWL_RIM_M = 0.048
"""Radius of the akita bowl's rim at grasping height."""

_BLACK: Rgba = (0.10, 0.10, 0.11, 1.0)
_WHITE: Rgba = (0.88, 0.86, 0.84, 1.0)
_CREAM: Rgba = (0.93, 0.90, 0.78, 1.0)
_RED: Rgba = (0.70, 0.13, 0.10, 1.0)
_YELLOW: Rgba = (0.88, 0.74, 0.20, 1.0)
_BLUE: Rgba = (0.16, 0.30, 0.62, 1.0)
_GREEN: Rgba = (0.22, 0.45, 0.20, 1.0)
_BROWN: Rgba = (0.36, 0.22, 0.13, 1.0)
_WOOD: Rgba = (0.62, 0.44, 0.27, 1.0)
_STEEL: Rgba = (0.60, 0.60, 0.62, 1.0)
_ORANGE: Rgba = (0.90, 0.48, 0.12, 1.0)


def object_files() -> dict[str, bytes]:
    """Path within the asset folder -> XML of every movable object of the five suites."""
    folders = {
        'stable_scanned_objects': _scanned(),
        'stable_hope_objects': _groceries(),
        'turbosquid_objects': _household(),
    }
    return {
        f'{folder}/{name}/{name}.xml': content
        for folder, objects in folders.items()
        for name, content in objects.items()
    }


def _scanned() -> dict[str, bytes]:
    ramekin = geom('cylinder', (0.038, 0.003), (0, 0, 0.003), _STEEL, surface=SMOOTH) + ring(
        16, 0.04, 0.022, (0.002, 0.0082, 0.022), _STEEL, surface=SMOOTH
    )
    plate = geom('cylinder', (0.042, 0.004), (0, 0, 0.004), _WHITE) + ring(
        20, 0.056, 0.010, (0.014, 0.0095, 0.0015), _WHITE, -0.25
    )
    pan = (
        geom('cylinder', (0.055, 0.003), (0, 0, 0.003), _BLACK)
        + ring(16, 0.058, 0.018, (0.002, 0.0118, 0.018), _BLACK)
        + geom('box', (0.05, 0.008, 0.005), (0.11, 0, 0.030), _BLACK)
    )
    basket = crate((0.085, 0.085, 0.035), 0.0, 0.004, _WOOD)
    basket += region('contain_region', (0.080, 0.080, 0.045), (0, 0, 0.045))
    shapes = {
        'akita_black_bowl': _bowl(_BLACK, 0.047),
        'white_bowl': _bowl(_WHITE, 0.050),
        'plate': plate,
        'glazed_rim_porcelain_ramekin': ramekin,
        'chefmate_8_frypan': pan,
        'basket': basket,
    }
    return {name: document(name, shape) for name, shape in shapes.items()}


def _bowl(rgba: Rgba, rim: float) -> str:
    height = 0.05
    return (
        geom('cylinder', (rim * 0.6, 0.003), (0, 0, 0.003), rgba)
        + ring(16, rim * 0.72, height * 0.3, (0.0015, rim * 0.16, height * 0.32), rgba, 0.6)
        + ring(16, rim * 0.96, height * 0.72, (0.0015, rim * 0.21, height * 0.3), rgba, 0.25)
    )


def _groceries() -> dict[str, bytes]:
    in_z: Mapping[str, tuple[tuple[float, float, float], float, Rgba]] = {
        'bbq_sauce': ((0.022, 0.018, 0.055), -0.06, _BROWN),
        'butter': ((0.032, 0.018, 0.016), -0.02, _YELLOW),
        'chocolate_pudding': ((0.030, 0.024, 0.014), -0.06, _BROWN),
        'cookies': ((0.036, 0.024, 0.012), -0.06, (0.80, 0.25, 0.15, 1.0)),
        'cream_cheese': ((0.036, 0.022, 0.014), -0.025, _BLUE),
    }
    in_y: Mapping[str, tuple[str, float, float, Rgba]] = {
        'alphabet_soup': ('cylinder', 0.030, 0.038, _RED),
        'ketchup': ('box', 0.022, 0.056, _RED),
        'milk': ('box', 0.028, 0.056, _WHITE),
        'new_salad_dressing': ('box', 0.024, 0.056, _CREAM),
        'orange_juice': ('box', 0.028, 0.056, _ORANGE),
        'salad_dressing': ('box', 0.024, 0.056, _GREEN),
        'tomato_sauce': ('cylinder', 0.030, 0.038, (0.82, 0.30, 0.16, 1.0)),
    }
    found = {
        name: document(name, geom('box', half, (0, 0, 0), rgba), bottom)
        for name, (half, bottom, rgba) in in_z.items()
    }
    for name, (kind, radius, half, rgba) in in_y.items():
        shape = _upright_in_y(kind, radius, half, rgba)
        found[name] = document(name, shape, -0.04 if name == 'alphabet_soup' else -0.06)
    return found


def _upright_in_y(kind: str, radius: float, half: float, rgba: Rgba) -> str:
    """A can, or a carton with a white cap, that stands along y with its centre at the origin."""
    if kind == 'cylinder':
        return geom('cylinder', (radius, half), (0, 0, 0), rgba, Y_UP)
    body = geom('box', (radius, half - 0.006, radius * 0.8), (0, -0.006, 0), rgba)
    return body + geom('cylinder', (0.010, 0.006), (0, half - 0.006, 0), _WHITE, Y_UP)


def _household() -> dict[str, bytes]:
    tray = crate((0.13, 0.09, 0.018), 0.0, 0.004, _WOOD)
    tray += region('contain_region', (0.120, 0.080, 0.040), (0, 0, 0.040))
    shapes = {
        'black_book': _book(_BLACK),
        'moka_pot': _moka_pot(),
        'porcelain_mug': _mug(_WHITE, _WHITE),
        'red_coffee_mug': _mug(_RED, _RED),
        'white_yellow_mug': _mug(_WHITE, _YELLOW),
        'wine_bottle': _wine_bottle(),
        'wooden_tray': tray,
        'yellow_book': _book(_YELLOW),
    }
    return {name: document(name, shape) for name, shape in shapes.items()}


def _book(cover: Rgba) -> str:
    """It stands on its short side: cover, pages, cover."""
    pages = geom('box', (0.010, 0.038, 0.060), (0, 0, 0.005), _CREAM)
    sides = [geom('box', (0.002, 0.040, 0.062), (s * 0.012, 0, 0.005), cover) for s in (-1, 1)]
    return pages + ''.join(sides)


def _mug(outside: Rgba, foot: Rgba) -> str:
    """The frame lies 3 cm above the foot: a table region begins 2 mm above the table."""
    handle = [geom('box', (0.010, 0.004, 0.003), (0.045, 0, z), outside) for z in (-0.010, 0.018)]
    handle.append(geom('box', (0.003, 0.004, 0.017), (0.055, 0, 0.004), outside))
    return (
        geom('cylinder', (0.034, 0.004), (0, 0, -0.026), foot)
        + ring(12, 0.034, 0.008, (0.002, 0.0095, 0.036), outside)
        + ''.join(handle)
    )


def _moka_pot() -> str:
    return (
        geom('cylinder', (0.036, 0.028), (0, 0, -0.027), _STEEL)
        + geom('cylinder', (0.032, 0.026), (0, 0, 0.027), _STEEL)
        + geom('cylinder', (0.008, 0.006), (0, 0, 0.059), _BLACK)
        + geom('box', (0.006, 0.006, 0.026), (0, 0.055, 0.018), _BLACK)
        + geom('box', (0.006, 0.016, 0.005), (0, 0.040, 0.040), _BLACK)
    )


def _wine_bottle() -> str:
    return geom('cylinder', (0.026, 0.055), (0, 0, 0.0), _GREEN) + geom(
        'cylinder', (0.010, 0.022), (0, 0, 0.077), _GREEN
    )


MARKER = 'GENERATED.txt'
"""Name of the file that tells generated assets from LIBERO's own."""

_NOTE = b'Primitives generated by vla_prune_ros in place of the assets of LIBERO.\n'


def standin_files() -> dict[str, bytes]:
    """Path within the asset folder -> content."""
    return {MARKER: _NOTE, **arena_files(), **fixture_files(), **object_files()}


def write_standin(parent: Path | None = None) -> Path:
    """Write the assets once; later calls find them.

    :param parent: where; None: the private cache folder.
    :returns: the asset folder; its name follows from its content.
    :raises VlaPruneError: the folder cannot be written.
    """
    files = standin_files()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f'{name}\0{len(files[name])}\0'.encode() + files[name])
    folder = (parent or cache_folder()) / f'assets-{digest.hexdigest()[:12]}'
    write_tree(folder, files)
    return folder


def is_generated(folder: Path) -> bool:
    """Whether a folder of assets was written by :func:`write_standin`."""
    return (folder / MARKER).is_file()
