"""Stand-ins for LIBERO's movable objects: right names, rough sizes, flat colours.

Which way is up in an object's own frame, and how far above its support it starts, follow from
LIBERO's fixed initial states: cans, bottles and cartons have y up, everything else z.
"""

from collections.abc import Mapping

from .libero_shapes import SMOOTH, Y_UP, Rgba, crate, document, geom, region, ring

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
