"""Pruners by name, for YAML, the command line and ``load_policy(pruning=...)``."""

from collections.abc import Mapping
from typing import Any

from ..errors import ProfileError
from .baselines import Dense, Uniform
from .plan import Pruner

PRUNERS = {'dense': Dense, 'uniform': Uniform}


def build_pruner(spec: 'str | Mapping[str, Any] | Pruner') -> Pruner:
    """A pruner from a name, from ``name:budget[,budget...]``, from a mapping, or as it is.

    ``'uniform'``, ``'uniform:128'``, ``'uniform:128,64'`` (per camera) and
    ``{'name': 'uniform', 'budget': [128, 64]}`` all work.

    :raises ProfileError: unknown name or knob.
    """
    if isinstance(spec, str):
        spec = _parse(spec)
    if not isinstance(spec, Mapping):
        return spec
    knobs = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items() if k != 'name'}
    name = spec.get('name')
    if name not in PRUNERS:
        raise ProfileError(f'unknown pruning method {name!r}', f'use one of {sorted(PRUNERS)}')
    try:
        return PRUNERS[name](**knobs)
    except TypeError as error:
        raise ProfileError(
            f'pruning method {name!r}: {error}', 'see docs/methods.md for its knobs'
        ) from None


def _parse(text: str) -> dict[str, Any]:
    name, _, budget = text.strip().partition(':')
    if not budget:
        return {'name': name}
    try:
        return {'name': name, 'budget': tuple(int(b) for b in budget.split(','))}
    except ValueError:
        raise ProfileError(
            f'pruning {text!r}: the budget is not a list of whole numbers',
            "write it like 'uniform:128' or 'uniform:128,64'",
        ) from None
