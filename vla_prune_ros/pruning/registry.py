"""Pruners by name, for YAML, the command line and ``load_policy(pruning=...)``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ProfileError
from . import specprune_build
from .baselines import Dense, Uniform
from .divprune import DivPrune
from .fastv import FastV
from .layout import Target
from .plan import Pruner
from .specprune_config import SPECPRUNE_PRESETS
from .vla_adp import VlaAdp
from .vla_cache import VlaCache
from .vla_pruner import VlaPruner

Build = Callable[..., Pruner]

PRUNERS: Mapping[str, Build] = {
    'dense': Dense.build,
    'uniform': Uniform.build,
    'specprune': specprune_build.build,
    'fastv': FastV.build,
    'divprune': DivPrune.build,
    'vla_adp': VlaAdp.build,
    'vla_pruner': VlaPruner.build,
    'vla_cache': VlaCache.build,
}
"""Method name -> ``build(target, **knobs)``."""

PRESETS: Mapping[str, tuple[str, ...]] = {'specprune': tuple(SPECPRUNE_PRESETS)}
"""Method name -> the words that may stand behind its colon instead of a budget."""


def build_pruner(spec: 'str | Mapping[str, Any] | Pruner', target: Target | None = None) -> Pruner:
    """A pruner from a word, a mapping, a YAML file, or as it is.

    ``'uniform'``, ``'uniform:128'``, ``'uniform:128,64'`` (per camera), ``'specprune:paper'``,
    ``{'name': 'uniform', 'budget': [128, 64]}``, the same as one line of YAML in braces, and the
    path of a ``.yaml`` file with that mapping all work.

    :param target: what it is built for; default OpenVLA-OFT with LIBERO's conventions.
    :raises ProfileError: unknown name or knob, or a value that is not possible.
    """
    if isinstance(spec, str):
        spec = _parse(spec.strip())
    if not isinstance(spec, Mapping):
        return spec
    knobs = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items() if k != 'name'}
    name = spec.get('name')
    if name not in PRUNERS:
        raise ProfileError(f'unknown pruning method {name!r}', f'use one of {sorted(PRUNERS)}')
    try:
        return PRUNERS[name](target or Target(), **knobs)
    except TypeError as error:
        raise ProfileError(
            f'pruning method {name!r}: {error}', 'see docs/methods.md for its knobs'
        ) from None


def _parse(text: str) -> Mapping[str, Any]:
    if text.startswith('{') or text.endswith(('.yaml', '.yml')):
        return _from_yaml(text)
    name, _, knob = text.partition(':')
    if not knob:
        return {'name': name}
    if knob in PRESETS.get(name, ()):
        return {'name': name, 'preset': knob}
    try:
        return {'name': name, 'budget': tuple(int(b) for b in knob.split(','))}
    except ValueError:
        raise ProfileError(
            f'pruning {text!r}: {knob!r} is neither a budget nor a preset',
            "write it like 'uniform:128', 'uniform:128,64' or 'specprune:paper'",
        ) from None


def _from_yaml(text: str) -> Mapping[str, Any]:
    try:
        source = text if text.startswith('{') else Path(text).read_text(encoding='utf-8')
        spec = yaml.safe_load(source)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(
            f'pruning {text!r} cannot be read ({str(error).splitlines()[0]})',
            "check the path, or write it like '{name: uniform, budget: [128, 64]}'",
        ) from None
    if not isinstance(spec, Mapping):
        raise ProfileError(f'pruning {text!r} is not a mapping', "start it with 'name: specprune'")
    return spec
