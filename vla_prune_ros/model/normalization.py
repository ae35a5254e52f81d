"""Normalisation of actions and state: the statistics of a checkpoint, and both directions, by the
formulas of OpenVLA-OFT (``robot_utils.py``, ``openvla_utils.py``) to the last bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..profiles import Profile
from .files import read_json

_EPSILON = 1e-8  # the reference adds it to every range, so that a constant dimension divides


@dataclass(frozen=True)
class Bounds:
    """Normalisation limits of one quantity, float64 (n,) each, and what is scaled."""

    low: np.ndarray
    high: np.ndarray
    mask: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Statistics:
    key: str
    action: Bounds
    proprio: Bounds | None


def read_statistics(folder: Path, profile: Profile, unnorm_key: str | None) -> Statistics:
    """:raises CheckpointError: key unknown or ambiguous (the keys are listed), wrong lengths,
    limits that are not finite or not ordered."""
    path = folder / 'dataset_statistics.json'
    data = read_json(path)
    key = _choose_key(path, sorted(data), unnorm_key)
    where = f'{path.name}: {key}'
    action = _bounds(data[key], 'action', where, profile)
    proprio = _bounds(data[key], 'proprio', where, profile) if profile.proprio_dim else None
    return Statistics(key, action, proprio)


def _choose_key(path: Path, keys: list[str], wanted: str | None) -> str:
    if not keys:
        raise CheckpointError(f'{path} holds no statistics', 'fetch the file again')
    if not wanted:
        if len(keys) == 1:
            return keys[0]
        raise CheckpointError(
            f'{path} holds several keys and unnorm_key is not set',
            f'set unnorm_key to one of {keys}',
        )
    for candidate in (wanted, f'{wanted}_no_noops'):
        if candidate in keys:
            return candidate
    raise CheckpointError(f'unnorm_key {wanted!r} is not in {path}', f'use one of {keys}')


def _bounds(entry: Any, what: str, where: str, profile: Profile) -> Bounds:
    length = profile.action_dim if what == 'action' else profile.proprio_dim
    names = ('q01', 'q99') if profile.normalization == 'bounds_q99' else ('min', 'max')
    where = f'{where}.{what}'
    try:
        low, high = (np.asarray(entry[what][n], np.float64) for n in names)
        mask = np.asarray(entry[what].get('mask', [True] * len(low)), bool)
        mean = np.asarray(entry[what].get('mean') or (low + high) / 2, np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{where} has no usable {names[0]}/{names[1]} ({error!r})',
            f'check profile {profile.name!r} and its normalization',
        ) from None
    if not len(low) == len(high) == len(mask) == len(mean) == length:
        raise CheckpointError(
            f'{where} has {len(low)} dimensions, profile {profile.name!r} has {length}',
            'choose the profile the checkpoint was trained with',
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high)[mask].all()):
        raise CheckpointError(
            f'{where}: limits are not finite or not {names[0]} < {names[1]}',
            'fetch dataset_statistics.json again',
        )
    return Bounds(low, high, mask, mean)


def normalize(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """(..., D) in the robot's units: ``low ... high`` (D,) to -1 ... 1, and clip. float64.
    :param mask: bool (D,), True where a dimension is normalised; the others are only clipped."""
    values, low, high = (np.asarray(a, np.float64) for a in (values, low, high))
    scaled = 2.0 * (values - low) / (high - low + _EPSILON) - 1.0
    if mask is not None:
        scaled = np.where(np.asarray(mask, bool), scaled, values)
    return np.clip(scaled, -1.0, 1.0)


def unnormalize(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """(..., D) of the head: -1 ... 1 back to ``low ... high`` (D,), without clipping. float64.

    ``0.5 * (values + 1)`` is taken in the dtype of ``values`` (the head gives float32) and only
    then widened, as in the reference.
    :param mask: bool (D,), True where a dimension was normalised; the others pass through."""
    values = np.asarray(values)
    low, high = (np.asarray(a, np.float64) for a in (low, high))
    scaled = 0.5 * (values + 1) * (high - low + _EPSILON) + low
    if mask is None:
        return scaled
    return np.where(np.asarray(mask, bool), scaled, values.astype(np.float64))
