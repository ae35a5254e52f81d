"""Pruners by name. A new method is one file, with a :class:`~.base.Pruner` and the record of its
options, and one line in :data:`PRUNERS`.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..config import from_mapping, load_yaml, nearest
from ..errors import ProfileError
from .base import Pruner
from .layout import Target
from .methods.baselines import Dense, Uniform
from .methods.divprune import DivPrune
from .methods.fastv import FastV
from .methods.lightvla import LightVLA, LightVLAStar
from .methods.vla_acl import VlaAcl
from .methods.vla_adp import VlaAdp
from .methods.vla_cache import VlaCache
from .methods.vla_pruner import VlaPruner
from .specprune.pruner import SpecPrune

PRUNERS: Mapping[str, type[Pruner]] = {
    'dense': Dense,
    'uniform': Uniform,
    'specprune': SpecPrune,
    'lightvla': LightVLA,
    'lightvla_star': LightVLAStar,
    'fastv': FastV,
    'divprune': DivPrune,
    'vla_adp': VlaAdp,
    'vla_acl': VlaAcl,
    'vla_pruner': VlaPruner,
    'vla_cache': VlaCache,
}

# 'uniform', 'uniform:128', 'uniform:128,64' (per camera), 'specprune:paper',
# 'specprune:recommended:96', {'name': 'uniform', 'budget': [128, 64]}, the same as one line of
# YAML in braces, the path of a .yaml file with that mapping, or a pruner as it is.
PrunerSpec = str | Path | Mapping[str, Any] | Pruner


def build_pruner(spec: PrunerSpec, target: Target | None = None) -> Pruner:
    """:raises ProfileError: unknown name or option, or a value that is not possible."""
    known = read_spec(spec)
    if isinstance(known, Pruner):
        return known
    return PRUNERS[known['name']](_options(known), target or Target())


def read_spec(spec: PrunerSpec) -> Mapping[str, Any] | Pruner:
    """``spec`` as a mapping with a known name and options in their ranges, or as the pruner."""
    if isinstance(spec, Pruner):
        return spec
    if isinstance(spec, Path):
        spec = load_yaml(spec, 'pruning file')
    elif isinstance(spec, str):
        spec = _parse(spec.strip())
    if not isinstance(spec, Mapping):
        raise ProfileError(
            f'pruning is {spec!r}',
            "give a name like 'specprune', a mapping, a YAML file, or a Pruner",
        )
    name = spec.get('name')
    if not isinstance(name, str) or name not in PRUNERS:
        raise ProfileError(f'unknown pruning method {name!r}', nearest(name, PRUNERS))
    _options(spec)
    return spec


def _options(spec: Mapping[str, Any]) -> Any:
    values = {option: value for option, value in spec.items() if option != 'name'}
    return from_mapping(PRUNERS[spec['name']].options_type, values, spec['name'])


def _parse(text: str) -> Mapping[str, Any]:
    if text.endswith(('.yaml', '.yml')):
        return load_yaml(text, 'pruning file')
    if text.startswith('{'):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ProfileError(
                f'pruning {text!r} cannot be read ({str(error).splitlines()[0]})',
                "write it like '{name: uniform, budget: [128, 64]}'",
            ) from None
    name, *parts = text.split(':')
    spec: dict[str, Any] = {'name': name}
    if parts and parts[0] in _presets(name):
        spec['preset'] = parts.pop(0)
    if not parts:
        return spec
    numbers = parts[0].split(',')
    if len(parts) > 1 or not all(n.strip().isascii() and n.strip().isdigit() for n in numbers):
        raise ProfileError(
            f'pruning {text!r}: {":".join(parts)!r} is neither a budget nor a preset',
            "write it like 'uniform:128', 'uniform:128,64' or 'specprune:paper'",
        )
    return {**spec, 'budget': tuple(int(n) for n in numbers)}


def _presets(name: str) -> tuple[str, ...]:
    options = fields(PRUNERS[name].options_type) if name in PRUNERS else ()
    return next((f.metadata['choices'] for f in options if f.name == 'preset'), ())
