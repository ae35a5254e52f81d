"""Stand-ins for LIBERO's rooms: a floor, a wall, and what the objects stand on."""

import struct
import zlib

from .libero_shapes import Rgba, numbers

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
