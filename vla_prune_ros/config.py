"""Options as frozen dataclasses: one field is the declaration, the check and the documentation of
a node's parameter, a pruner's option, a line of a training file or a flag of a command."""

import argparse
import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import ProfileError, VlaPruneError

Record = TypeVar('Record')
Refusal = type[VlaPruneError]


class Above(float):
    """As ``low`` of an option: the number itself is not allowed, all above it are."""


def option(
    default: Any = MISSING,
    doc: str = '',
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    live: bool = False,
    flags: Mapping[str, Any] | None = None,
) -> Any:
    """One field of a record of options.

    :param doc: one sentence with the unit.
    :param low: lowest allowed number, or :class:`Above` it; of each item, for tuples.
    :param live: for a node: may be set while it runs.
    :param flags: for a command: what ``add_argument`` takes beyond what follows from the field;
        ``'flag'`` is its name, ``'positional'`` makes it one, ``'group'`` is its heading, and of
        those that are ``'exclusive'`` one may be given."""
    metadata = dict(doc=doc, low=low, high=high, choices=choices, live=live, flags=flags or {})
    if isinstance(default, (tuple, Mapping)):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def is_int(value: Any) -> bool:
    """Of numpy too; not for booleans."""
    return isinstance(value, Integral) and not isinstance(value, bool)


_WORDS = {int: 'a whole number', float: 'a number', str: 'a word', bool: 'true or false'}


def describe_type(hint: Any) -> str:
    """What a value of this annotation is, for a refusal."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f'one of {", ".join(map(repr, args))}'
    if origin is tuple:
        return f'a list, each {describe_type(args[0])}'
    if origin in (Union, UnionType):
        return ' or '.join('null' if a is NoneType else describe_type(a) for a in args)
    return _WORDS.get(hint, getattr(hint, '__name__', str(hint)))


def convert(value: Any, hint: Any, where: str = '', error: Refusal = ProfileError) -> Any:
    """``value`` as the annotation has it: lists become tuples, whole numbers floats, text a path,
    mappings a nested record. :raises TypeError: it is of another type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for arm in args:
            try:
                return convert(value, arm, where, error)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        good = any(type(value) is type(a) and value == a for a in args)
    elif origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(inner) != len(value):
            raise TypeError
        return tuple(convert(v, a, where, error) for v, a in zip(value, inner, strict=True))
    elif hint is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    elif hint is int and is_int(value):
        return int(value)
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    elif is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(hint, value, where or hint.__name__, error)
    elif origin in (Mapping, dict) and isinstance(value, Mapping):
        return {convert(k, args[0]): convert(v, args[1], where, error) for k, v in value.items()}
    elif hint in (Mapping, dict):
        good = isinstance(value, Mapping)
    elif is_dataclass(hint):
        good = isinstance(value, hint)
    else:  # NoneType is the type of None
        good = type(value) is hint
    if not good:
        raise TypeError
    return value


def out_of_range(f: Field, value: Any) -> str:
    """Why ``value``, of the right type, is not allowed for the field; empty where it is."""
    meta = f.metadata
    low, high = meta.get('low'), meta.get('high')
    for item in value if isinstance(value, tuple) else (value,):
        if item is None:
            continue
        if meta.get('choices') and item not in meta['choices']:
            return f'{item!r} is not one of {", ".join(map(str, meta["choices"]))}'
        if isinstance(item, float) and not math.isfinite(item):
            return f'{item} is not a finite number'
        if isinstance(low, Above) and item <= low:
            return f'{item} is not above {low:g}'
        if low is not None and item < low:
            return f'{item} is below {low}'
        if high is not None and item > high:
            return f'{item} is above {high}'
    return ''


def nearest(name: str, known: Any) -> str:
    """What a misspelt name may have meant, as the remedy of a refusal."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    listed = f'use one of {", ".join(sorted(map(str, known)))}' if known else 'it takes none'
    return f'did you mean {close[0]!r}? {listed}' if close else listed


def check_values(
    record: type, values: Mapping[str, Any], where: str, error: Refusal = ProfileError
) -> dict[str, Any]:
    """The values as the fields have them; ``where`` names what they are options of.
    :raises VlaPruneError: of class ``error``; a name is unknown, or a value is of another type or
        out of range."""
    known = {f.name: f for f in fields(record) if f.init}
    hints = get_type_hints(record)
    out = {}
    for name, value in values.items():
        if name not in known:
            raise error(f'{where} has no {name!r}', nearest(name, known))
        f = known[name]
        doc = f.metadata.get('doc', '')
        try:
            out[name] = convert(value, hints[name], f'{where}: {name}', error)
        except TypeError:
            raise error(
                f'{where}: {name} is {value!r}', f'give {describe_type(hints[name])}'
            ) from None
        problem = out_of_range(f, out[name])
        if problem:
            raise error(f'{where}: {name}: {problem}', f'it is: {doc}' if doc else 'change it')
    return out


def from_mapping(
    record: type[Record], values: Mapping[str, Any], where: str, error: Refusal = ProfileError
) -> Record:
    """A record of these values, the others at their defaults.
    :raises VlaPruneError: see :func:`check_values`; or a value without a default is missing."""
    checked = check_values(record, values, where, error)
    for f in fields(record):
        missing = f.default is MISSING and f.default_factory is MISSING
        if f.init and missing and f.name not in checked:
            raise error(f'{where} lacks {f.name}', f'it is: {f.metadata.get("doc", f.type)}')
    return record(**checked)


def load_yaml(path: str | Path, what: str, error: Refusal = ProfileError) -> dict[str, Any]:
    """A YAML file that holds a mapping; ``what`` names it, for example ``'profile file'``.
    :raises VlaPruneError: of class ``error``; it cannot be read, or holds something else."""
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding='utf-8'))
    except (OSError, ValueError, RuntimeError, yaml.YAMLError) as problem:
        raise error(
            f'{what} {path} cannot be read ({str(problem).splitlines()[0]})',
            'check the path and that it is YAML',
        ) from None
    if not isinstance(data, dict):
        problem = f'{what} {path} is not a mapping of names to values'
        raise error(problem, 'write name: value lines')
    return data


# --- command line --------------------------------------------------------------------------------


def add_arguments(parser: Any, record: type) -> None:
    """``max_steps`` becomes ``--max-steps``; a switch that is on becomes ``--no-name``; a tuple
    takes several words."""
    hints, groups = get_type_hints(record), {'': parser}
    for f in fields(record):
        if 'doc' not in f.metadata:
            continue
        meta, more = f.metadata, dict(f.metadata['flags'])
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        hint = hints[f.name]
        if get_origin(hint) in (Union, UnionType):
            hint = next(a for a in get_args(hint) if a is not NoneType)
        several, dashed = get_origin(hint) is tuple, f.name.replace('_', '-')
        flag, positional = more.pop('flag', ''), more.pop('positional', False)
        group, exclusive = more.pop('group', ''), more.pop('exclusive', False)
        if exclusive:
            group = group or 'exclusive'
            groups[group] = groups.get(group) or parser.add_mutually_exclusive_group()
        elif group:
            groups[group] = groups.get(group) or parser.add_argument_group(group)
        given: dict[str, Any] = {'help': meta['doc'] or None}
        if hint is bool:
            given |= {'action': 'store_false' if default else 'store_true', 'default': default}
            flag = flag or ('--no-' if default else '--') + dashed
        else:
            given['type'] = _argument(f, get_args(hint)[0] if several else hint)
            if default is not MISSING:
                given['default'] = default
            elif not positional:
                given['required'] = True
            if several:
                given['nargs'] = '+'
            if meta['choices']:
                given['choices'] = meta['choices']
            flag = flag or '--' + dashed
        given |= more
        if positional:
            if 'default' in given and 'nargs' not in more:
                given['nargs'] = '*' if several else '?'
            groups[group].add_argument(f.name, **given)
        else:
            groups[group].add_argument(flag, dest=f.name, **given)


def _argument(f: Field, kind: type) -> Any:
    """A converter for argparse that refuses what is out of range, with exit code 2."""

    def parse(text: str) -> Any:
        value = kind(text)
        problem = out_of_range(f, value) if kind in (int, float) else ''
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no such value
    return parse


def from_arguments(record: type[Record], options: Any, **more: Any) -> Record:
    """The record of what was given on the command line, or of a command that was made of it;
    ``more``: values of fields that are not options."""
    names = [f.name for f in fields(record) if f.init and hasattr(options, f.name)]
    values = {n: getattr(options, n) for n in names}
    return record(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()} | more)
