"""Options as records: what a mapping, a YAML file and a command line may hold."""

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.config import (
    Above,
    add_arguments,
    check_values,
    from_arguments,
    from_mapping,
    load_yaml,
    option,
)
from vla_prune_ros.errors import DataError, ProfileError


@dataclass(frozen=True)
class Inner:
    """A nested record."""

    gain: float = option(1.0, 'Gain.', low=Above(0))


@dataclass(frozen=True)
class Shown:
    """One field of each kind that a command line knows."""

    name: str = option(doc='Must be given.')
    steps: int = option(8, 'Steps.', low=1, high=50)
    speed_m_s: float = option(0.5, 'Speed, m/s.', low=0, high=2)
    kind: str = option('fast', 'Kind.', choices=('fast', 'slow'))
    dry: bool = option(False, 'Only say.')
    cameras: tuple[str, ...] = option(('primary',), 'Cameras.')
    limit: float | None = option(None, 'Limit; none: no limit.', low=Above(0))
    out: Path = option(Path('out'), 'Folder.')


@dataclass(frozen=True)
class Options(Shown):
    """And those that only a file can hold."""

    offset: tuple[float, float] = option((0.0, 0.0), 'Offset.', low=-1, high=1)
    inner: Inner = option(Inner(), 'Nested.')


GOOD = {
    'name': st.text(),
    'steps': st.integers(1, 50),
    'speed_m_s': st.one_of(st.floats(0, 2), st.integers(0, 2)),
    'kind': st.sampled_from(['fast', 'slow']),
    'dry': st.booleans(),
    'cameras': st.lists(st.text()),
    'offset': st.lists(st.floats(-1, 1), min_size=2, max_size=2),
    'limit': st.one_of(st.none(), st.floats(0, exclude_min=True, allow_infinity=False)),
    'out': st.just('/tmp/a'),
    'inner': st.fixed_dictionaries({'gain': st.floats(0.1, 10)}),
}
MAPPINGS = st.fixed_dictionaries(
    {'name': GOOD['name']}, optional={k: v for k, v in GOOD.items() if k != 'name'}
)
BAD = [
    *(('steps', v) for v in (0, 51, 1.5, True, '3', None, [3])),
    *(('speed_m_s', v) for v in (-0.1, 2.1, float('nan'), float('inf'), True, '1')),
    *(('kind', v) for v in ('medium', 1, '')),
    *(('dry', v) for v in (0, 'true', None)),
    *(('cameras', v) for v in ('wrist', [1], [['a']], None, {'a': 1})),
    *(('offset', v) for v in ([0.0], [0.0, 0.0, 0.0], [0.0, 1.5], 0.0)),
    *(('limit', v) for v in (0, -1, 'none')),
    *(('inner', v) for v in ({'gain': 0}, {'gian': 1.0}, 3)),
    ('name', 5),
]


@given(values=MAPPINGS, file=st.booleans())
def test_what_is_given_is_held_and_the_rest_is_the_default(tmp_path_factory, values, file):
    read = values
    if file:
        path = tmp_path_factory.mktemp('yaml') / 'options.yaml'
        path.write_text(yaml.safe_dump(values), encoding='utf-8')
        read = load_yaml(path, 'options file')
    record = from_mapping(Options, read, 'options')
    default = Options(name='')
    for f in fields(Options):
        got = getattr(record, f.name)
        if f.name not in values:
            assert got == getattr(default, f.name)
        elif isinstance(values[f.name], list):
            assert got == tuple(values[f.name])
        elif isinstance(values[f.name], Mapping):
            assert asdict(got) == values[f.name]
        else:
            assert str(got) == str(values[f.name]) or got == values[f.name]
    assert isinstance(record.speed_m_s, float) and isinstance(record.out, Path)


@pytest.mark.parametrize(('name', 'value'), BAD)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(DataError) as error:
        from_mapping(Options, {'name': 'x', name: value}, 'file a.yaml', DataError)
    text = str(error.value)
    assert '\n' not in text and f'file a.yaml: {name}' in text


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 20))
def test_an_unknown_name_is_refused_with_the_nearest_one(name, place):
    typo = name[:place] + name[place + 1 :] or 'q'
    if typo in GOOD:
        return
    with pytest.raises(ProfileError) as error:
        check_values(Options, {typo: 1}, 'options')
    close = difflib.get_close_matches(typo, list(GOOD), n=1)
    assert repr(typo) in str(error.value) and all(c in str(error.value) for c in close)


def test_a_value_without_a_default_must_be_given():
    with pytest.raises(ProfileError, match='name'):
        from_mapping(Options, {}, 'options')


@pytest.mark.parametrize('content', [b'- a\n', b'', b'a: [', b'\x00', b'\xff\xfe\x00', None])
def test_a_file_that_holds_no_mapping_is_named_in_one_line(tmp_path, content):
    path = tmp_path / 'options.yaml'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=path.name) as error:
        load_yaml(path, 'options file', DataError)
    assert '\n' not in str(error.value)


# --- command line --------------------------------------------------------------------------------


def parse(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser, Shown)
    return from_arguments(Options, parser.parse_args(words))


TYPED = {
    'steps': GOOD['steps'],
    'speed_m_s': st.floats(0, 2),
    'kind': GOOD['kind'],
    'limit': st.floats(0.1, 5),
    'dry': st.just(True),
    'cameras': st.lists(st.sampled_from(['primary', 'wrist']), min_size=1),
}


@given(st.fixed_dictionaries({}, optional=TYPED))
def test_a_command_line_says_the_same_as_a_mapping(values):
    words = ['--name', 'x']
    for name, value in values.items():
        words.append('--' + name.replace('_', '-'))
        if isinstance(value, list):
            words += value
        elif value is not True:
            words.append(str(value))
    assert parse(*words) == from_mapping(Options, {'name': 'x', **values}, 'options')


@pytest.mark.parametrize(
    'words',
    ['--steps 0', '--steps 1.5', '--speed-m-s nan', '--kind medium', '--limit 0', '--nothing', ''],
)
def test_a_bad_command_line_ends_with_two(words):
    with pytest.raises((SystemExit, argparse.ArgumentError)) as end:
        parse(*(['--name', 'x'] if words else []), *words.split())
    assert getattr(end.value, 'code', 2) == 2
