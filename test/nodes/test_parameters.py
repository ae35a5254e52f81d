"""Every parameter record on a real node: descriptors, ranges, types, and the shipped files.

Ranges are tried at and beyond the limits that the record states.
"""

import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from rcl_interfaces.msg import ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.nodes.executor.params import ExecutorParams
from vla_prune_ros.nodes.params import check_value, declare, defaults, read
from vla_prune_ros.nodes.policy.params import PolicyParams
from vla_prune_ros.nodes.simulator.node import SimulatorParams
from vla_prune_ros.nodes.tools.fake_robot import FakeRobotParams

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {
    'vla_policy': PolicyParams,
    'chunk_executor': ExecutorParams,
    'simulator': SimulatorParams,
    'fake_robot': FakeRobotParams,
}
FIELDS = [(record, f.name) for record in RECORDS.values() for f in fields(record)]
BOUNDED = [
    (record, name)
    for record, name in FIELDS
    if record.__dataclass_fields__[name].metadata['low'] is not None
]
CHOICES = [
    (record, name)
    for record, name in FIELDS
    if record.__dataclass_fields__[name].metadata['choices']
]


def label(value):
    return getattr(value, '__name__', str(value))


@pytest.fixture
def node(ros):
    """Makes a bare node with parameter values given from outside."""
    made = []

    def make(**values):
        overrides = [Parameter(k, value=v) for k, v in values.items()]
        made.append(Node('bare', parameter_overrides=overrides))
        return made[-1]

    yield make
    for one in made:
        one.destroy_node()


def meta(record, name):
    return record.__dataclass_fields__[name].metadata


def one_line(error):
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('record', RECORDS.values(), ids=label)
def test_declared_as_documented_and_filled_with_the_defaults(node, record):
    bare = node()
    none = {k: () if v == ('',) else v for k, v in defaults(record).items()}
    assert declare(bare, record) == record(**none)
    for f in fields(record):
        descriptor = bare.describe_parameter(f.name)
        value = bare.get_parameter(f.name)
        assert descriptor.description == f.metadata['doc'] and f.metadata['doc'].endswith('.')
        assert value.type_ != Parameter.Type.NOT_SET
        low, high = f.metadata['low'], f.metadata['high']
        assert (low is None) == (high is None), f'{f.name} has half a range'
        if low is not None and descriptor.type == ParameterType.PARAMETER_DOUBLE:
            (limits,) = descriptor.floating_point_range
            assert (limits.from_value, limits.to_value) == (low, high)
        elif low is not None and descriptor.type == ParameterType.PARAMETER_INTEGER:
            (limits,) = descriptor.integer_range
            assert (limits.from_value, limits.to_value) == (low, high)
        for choice in f.metadata['choices']:
            assert choice in descriptor.additional_constraints


@pytest.mark.parametrize(('record', 'name'), FIELDS, ids=label)
def test_every_number_has_a_range(record, name):
    default = defaults(record)[name]
    first = default[0] if isinstance(default, tuple) else default
    if isinstance(first, int | float) and not isinstance(first, bool):
        assert meta(record, name)['low'] is not None


@pytest.mark.parametrize(('record', 'name'), BOUNDED, ids=label)
def test_limits_are_allowed_and_what_is_beyond_is_refused(node, record, name):
    default, low, high = (
        defaults(record)[name],
        meta(record, name)['low'],
        meta(record, name)['high'],
    )
    for value, good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        if isinstance(default, tuple):
            wanted = [float(value)] * len(default)
        else:
            wanted = type(default)(value)
        bare = node(**{name: wanted})
        if good:
            got = getattr(declare(bare, record), name)
            assert got == (tuple(wanted) if isinstance(default, tuple) else wanted)
        else:
            with pytest.raises(ProfileError, match=f'parameter {name}') as error:
                declare(bare, record)
            assert meta(record, name)['doc'] in one_line(error)


FLOATS = [(r, n) for r, n in BOUNDED if not isinstance(defaults(r)[n], int)]


@pytest.mark.parametrize(('record', 'name'), FLOATS, ids=label)
def test_nan_is_refused(node, record, name):
    default = defaults(record)[name]
    bare = node(**{name: [math.nan] * len(default) if isinstance(default, tuple) else math.nan})
    with pytest.raises(ProfileError, match=f'parameter {name}') as error:
        declare(bare, record)
    one_line(error)


@pytest.mark.parametrize(('record', 'name'), CHOICES, ids=label)
def test_words_that_are_no_choice_are_refused_with_the_choices(node, record, name):
    with pytest.raises(ProfileError, match=f'parameter {name}') as error:
        declare(node(**{name: 'nonsense'}), record)
    assert all(choice in one_line(error) for choice in meta(record, name)['choices'])


@pytest.mark.parametrize(('record', 'name'), FIELDS, ids=label)
def test_a_wrong_type_is_refused_by_name(node, record, name):
    wrong = 7 if isinstance(defaults(record)[name], str | bool | float) else 'text'
    with pytest.raises(ProfileError, match=f'parameter {name}') as error:
        declare(node(**{name: wrong}), record)
    one_line(error)


def test_only_live_parameters_change_on_a_node_that_never_configures(node):
    bare = node()
    declare(bare, FakeRobotParams)
    result = bare.set_parameters([Parameter('rate_hz', value=10.0)])[0]
    assert not result.successful and 'read-only' in result.reason


def test_a_node_that_configures_reads_again(node):
    bare = node()
    declare(bare, PolicyParams, configures=True)
    assert bare.set_parameters([Parameter('checkpoint', value='/x')])[0].successful
    assert read(bare, PolicyParams).checkpoint == '/x'
    bare.set_parameters([Parameter('gripper_signs', value=[1.0, 2.0])])
    with pytest.raises(ProfileError, match='gripper_signs: 2.0 is above 1'):
        read(bare, PolicyParams)


def test_an_empty_string_stands_for_an_empty_list(node):
    assert declare(node(rotate_180=['']), PolicyParams).rotate_180 == ()
    assert declare(node(rotate_180=['wrist']), PolicyParams).rotate_180 == ('wrist',)


@pytest.mark.parametrize('path', sorted((ROOT / 'config').glob('*.yaml')), ids=lambda p: p.name)
def test_shipped_files_hold_declared_names_and_legal_values(path):
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert content
    for node_name, block in content.items():
        record = RECORDS[node_name.rpartition('/')[2]]
        for name, value in block['ros__parameters'].items():
            f = record.__dataclass_fields__[name]
            default = defaults(record)[name]
            if isinstance(value, list):
                assert {type(v) for v in value} == {type(v) for v in default or ('',)}, name
                value = tuple(value)
            else:
                assert type(value) is type(default), name
            assert check_value(f, value) == '', name
