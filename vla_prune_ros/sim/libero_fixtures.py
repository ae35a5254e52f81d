"""Stand-ins for what stands fixed in LIBERO's scenes: cabinets, stove, microwave, shelves, racks.

Joints have LIBERO's order, ranges and signs (its fixed initial states hold their positions), and
all open towards their own -y. A fixture stands still in the world, so MuJoCo lets it collide with
its own moving parts: these keep some millimetres away from it.
"""

from .libero_shapes import X_LONG, Rgba, crate, document, geom, numbers, region

_WOOD: Rgba = (0.12, 0.10, 0.09, 1.0)
_PINE: Rgba = (0.66, 0.50, 0.33, 1.0)
_WHITE: Rgba = (0.86, 0.86, 0.85, 1.0)
_STEEL: Rgba = (0.62, 0.62, 0.63, 1.0)
_METAL: Rgba = (0.45, 0.45, 0.47, 1.0)
_DARK: Rgba = (0.15, 0.15, 0.16, 1.0)

_UNDERSIDE = -0.045  # places a fixture 5 mm above the table, as LIBERO's initial states imply
_DRAWERS = {'top': 0.187, 'middle': 0.117, 'bottom': 0.047}


def fixture_files() -> dict[str, bytes]:
    """Path within the asset folder -> XML of every fixture of the five suites."""
    moving = {
        'flat_stove': _stove(),
        'microwave': _microwave(),
        'white_cabinet': _cabinet(_WHITE),
        'wooden_cabinet': _cabinet(_WOOD),
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
        _STEEL, ((0.09, 0.09, 0.015), (0.15, 0, 0.015)), ((0.05, 0.09, 0.015), (0.0, 0, 0.015))
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
        _WHITE,
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
