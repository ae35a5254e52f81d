"""Knobs of VLA-Cache, and how the released numbers fit another model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ..errors import ProfileError
from .knobs import share, whole
from .layout import Target
from .specprune_rows import scaled_layer

METHOD = 'vla_cache'
PATCHES = 256
STATIC_TOP = 150
RELEVANT_TOP = 100
RELEVANT_LAYER = 15
GROW_BEFORE = (2, 6, 9, 11)


@dataclass(frozen=True)
class VlaCacheConfig:
    """What is reused; see :func:`fit` for the knobs.

    :param grow_before: ascending; empty for a decoder of one layer, which reuses nothing.
    """

    threshold: float
    static_top: int
    relevant_top: int
    relevant_layer: int
    grow_before: tuple[int, ...]
    growth: float


def fit(
    target: Target,
    threshold: float = 0.996,
    static_top: int | None = None,
    relevant_top: int | None = None,
    relevant_layer: int | None = None,
    grow_before: Sequence[int] | None = None,
    growth: float = 0.55,
) -> VlaCacheConfig:
    """Knobs for ``target``; those left out are the released code's.

    Released numbers are for 32 layers and 256 patches per camera. Other models get layers at the
    same share of the depth and counts at the same share of the patches, rounded up.

    :param threshold: least cosine similarity of a static patch, above 0 to 1; 0.996, and 0.85 on
        the authors' real robot.
    :param static_top: tokens per camera that count as static at most; 150 of 256, the paper has
        100.
    :param relevant_top: tokens per camera that are relevant; 100 of 256.
    :param relevant_layer: the layer whose attention says so, from 0; 15 of 32; clipped to the
        model's.
    :param grow_before: decoder layers before which more tokens are reused, from 1; 2, 6, 9 and 11
        of 32; clipped to the model's.
    :param growth: how much of a rise of the share from layer to layer counts, 0 to 1; 0.55.
    :raises ProfileError: a value that is not possible.
    """
    return VlaCacheConfig(
        share(METHOD, 'threshold', threshold),
        _count('static_top', static_top, STATIC_TOP, 1, target.patches),
        _count('relevant_top', relevant_top, RELEVANT_TOP, 0, target.patches),
        _relevant_layer(relevant_layer, target.layers),
        _grow_before(grow_before, target.layers),
        share(METHOD, 'growth', growth, zero=True),
    )


def _count(knob: str, given: int | None, released: int, low: int, patches: int) -> int:
    if given is None:
        return ceil(released * patches / PATCHES)
    if whole(METHOD, knob, given, low) > patches:
        raise ProfileError(
            f'{METHOD}: {knob} is {given}',
            f'use a whole number up to {patches}, the tokens of a camera',
        )
    return given


def _relevant_layer(given: int | None, layers: int) -> int:
    if given is None:
        return max(0, scaled_layer(RELEVANT_LAYER, layers))
    return min(whole(METHOD, 'relevant_layer', given, 0), layers - 1)


def _grow_before(given: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    if given is None:
        given = [max(1, scaled_layer(layer - 1, layers) + 1) for layer in GROW_BEFORE]
    elif not isinstance(given, (list, tuple)) or not given:
        raise ProfileError(f'{METHOD}: grow_before is {given!r}', 'use layers, like [2, 6, 9, 11]')
    clipped = {min(whole(METHOD, 'grow_before', layer, 1), layers - 1) for layer in given}
    return tuple(sorted(clipped - {0}))
