"""Pruners by name, for YAML, the command line and ``load_policy(pruning=...)``."""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

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
from .methods.vla_cache import fit as fit_vla_cache
from .methods.vla_pruner import VlaPruner
from .specprune import pruner as specprune_build
from .specprune.config import SPECPRUNE_PRESETS

Build = Callable[..., Pruner]
KNOBS: Mapping[str, tuple[str, ...]] = {
    'vla_cache': tuple(signature(fit_vla_cache).parameters)[1:],
}
"""Knobs of methods whose ``build`` hands them on."""

PRUNERS: Mapping[str, Build] = {
    'dense': Dense.build,
    'uniform': Uniform.build,
    'specprune': specprune_build.build,
    'lightvla': LightVLA.build,
    'lightvla_star': LightVLAStar.build,
    'fastv': FastV.build,
    'divprune': DivPrune.build,
    'vla_adp': VlaAdp.build,
    'vla_acl': VlaAcl.build,
    'vla_pruner': VlaPruner.build,
    'vla_cache': VlaCache.build,
}
"""Method name -> ``build(target, **knobs)``."""

PRESETS: Mapping[str, tuple[str, ...]] = {'specprune': tuple(SPECPRUNE_PRESETS)}
"""Method name -> the words that may stand behind its colon instead of a budget."""


def build_pruner(
    spec: 'str | Path | Mapping[str, Any] | Pruner', target: Target | None = None
) -> Pruner:
    """A pruner from a word, a mapping, a YAML file, or as it is.

    ``'uniform'``, ``'uniform:128'``, ``'uniform:128,64'`` (per camera), ``'specprune:paper'``,
    ``'specprune:recommended:96'``, ``{'name': 'uniform', 'budget': [128, 64]}``, the same as one
    line of YAML in braces, and the path of a ``.yaml`` file with that mapping all work.

    :param target: what it is built for; default OpenVLA-OFT with LIBERO's conventions.
    :raises ProfileError: unknown name or knob, or a value that is not possible.
    """
    known = read_spec(spec)
    if not isinstance(known, Mapping):
        return known
    knobs = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items() if k != 'name'}
    return PRUNERS[known['name']](target or Target(), **knobs)


def read_spec(spec: 'str | Path | Mapping[str, Any] | Pruner') -> 'Mapping[str, Any] | Pruner':
    """What :func:`build_pruner` takes, as a mapping of known names or as it is.

    :raises ProfileError: unknown name or knob.
    """
    if isinstance(spec, Path):
        spec = _from_yaml(str(spec))
    elif isinstance(spec, str):
        spec = _parse(spec.strip())
    if not isinstance(spec, Mapping):
        return _require_pruner(spec)
    name = spec.get('name')
    if not isinstance(name, str) or name not in PRUNERS:
        raise ProfileError(f'unknown pruning method {name!r}', f'use one of {sorted(PRUNERS)}')
    known = KNOBS.get(name) or tuple(signature(PRUNERS[name]).parameters)[1:]
    for knob in spec:
        if knob not in ('name', *known):
            has = f'its knobs are {", ".join(known)}' if known else 'it has no knobs'
            raise ProfileError(f'pruning method {name!r} has no {knob!r}', has)
    return spec


def _require_pruner(spec: Any) -> Pruner:
    if isinstance(spec, Pruner):
        return spec
    raise ProfileError(
        f'pruning is {spec!r}',
        "give a name like 'specprune', a mapping, a YAML file, or an instance of "
        'vla_prune_ros.pruning.base.Pruner',
    )


def _parse(text: str) -> Mapping[str, Any]:
    if text.startswith('{') or text.endswith(('.yaml', '.yml')):
        return _from_yaml(text)
    name, *words = text.split(':')
    spec: dict[str, Any] = {'name': name}
    if words and words[0] in PRESETS.get(name, ()):
        spec['preset'] = words.pop(0)
    if not words:
        return spec
    numbers = words[0].split(',')
    if len(words) > 1 or not all(n.strip().isascii() and n.strip().isdigit() for n in numbers):
        raise ProfileError(
            f'pruning {text!r}: {":".join(words)!r} is neither a budget nor a preset',
            "write it like 'uniform:128', 'uniform:128,64' or 'specprune:paper'",
        )
    return {**spec, 'budget': tuple(int(n) for n in numbers)}


def _from_yaml(text: str) -> Mapping[str, Any]:
    try:
        path = Path(text).expanduser()
        source = text if text.startswith('{') else path.read_text(encoding='utf-8')
        spec = yaml.safe_load(source)
    except (OSError, ValueError, RuntimeError, yaml.YAMLError) as error:
        raise ProfileError(
            f'pruning {text!r} cannot be read ({str(error).splitlines()[0]})',
            "check the path, or write it like '{name: uniform, budget: [128, 64]}'",
        ) from None
    if not isinstance(spec, Mapping):
        raise ProfileError(f'pruning {text!r} is not a mapping', "start it with 'name: specprune'")
    return spec
