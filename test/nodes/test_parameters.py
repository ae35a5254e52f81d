"""Every parameter record on a real node: descriptors, ranges, types, and the shipped files.

Ranges are tried at and beyond the limits that the record states.
"""

import contextlib
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

from vla_prune_ros.config import from_mapping
from vla_prune_ros.errors import ProfileError
from vla_prune_ros.nodes.executor import ExecutorParams
from vla_prune_ros.nodes.params import declare, read
from vla_prune_ros.nodes.simulator import SimulatorParams
from vla_prune_ros.nodes.tools.bag_interface import BagPlayerParams
from vla_prune_ros.nodes.tools.fake_robot import FakeRobotParams
from vla_prune_ros.runtime.params import PolicyParams

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {
    'vla_policy': PolicyParams,
    'chunk_executor': ExecutorParams,
    'simulator': SimulatorParams,
    'bag_player': BagPlayerParams,
    'fake_robot': FakeRobotParams,
}
FIELDS = [
    pytest.param(record(), f, id=f'{node}-{f.name}')
    for node, record in RECORDS.items()
    for f in fields(record)
]


@pytest.fixture
def node(ros):
    """Makes a bare node with parameter values given from outside."""
    with contextlib.ExitStack() as made:

        def make(**values):
            overrides = [Parameter(k, value=v) for k, v in values.items()]
            bare = Node('bare', parameter_overrides=overrides)
            made.callback(bare.destroy_node)
            return bare

        yield make


def refused(node, record, name, value):
    """The one line that refuses the value, which names parameter and meaning."""
    with pytest.raises(ProfileError, match=f'parameter {name}') as error:
        declare(node(**{name: value}), record)
    text, doc = str(error.value), record.__dataclass_fields__[name].metadata['doc']
    assert '\n' not in text and doc in text
    return text


@pytest.mark.parametrize('record', RECORDS.values(), ids=RECORDS)
def test_declared_as_documented_and_filled_with_the_defaults(node, record):
    bare = node()
    assert declare(bare, record) == record()
    for f in fields(record):
        descriptor, meta = bare.describe_parameter(f.name), f.metadata
        assert descriptor.description == meta['doc'] and meta['doc'].endswith('.')
        assert bare.get_parameter(f.name).type_ != Parameter.Type.NOT_SET
        limits = {
            ParameterType.PARAMETER_DOUBLE: descriptor.floating_point_range,
            ParameterType.PARAMETER_INTEGER: descriptor.integer_range,
        }.get(descriptor.type)
        if limits is not None:  # every single number has a range
            assert (limits[0].from_value, limits[0].to_value) == (meta['low'], meta['high'])
        assert all(choice in descriptor.additional_constraints for choice in meta['choices'])


@pytest.mark.parametrize(('record', 'f'), FIELDS)
def test_limits_are_allowed_and_what_is_beyond_is_refused(node, record, f):
    default, low, high = getattr(record, f.name), f.metadata['low'], f.metadata['high']
    several = isinstance(default, tuple)
    sample = default[0] if several and default else default
    if isinstance(sample, bool | str | tuple):
        assert low is high is None
        return

    def given(value):
        return [type(sample)(value)] * len(default) if several else type(sample)(value)

    for value in (low, high):
        got = getattr(declare(node(**{f.name: given(value)}), type(record)), f.name)
        assert (list(got) if several else got) == given(value)
    beyond = [low - 1, high + 1, *([math.nan] if isinstance(sample, float) else ())]
    for value in beyond:
        refused(node, type(record), f.name, given(value))


@pytest.mark.parametrize(('record', 'f'), FIELDS)
def test_a_wrong_type_and_no_choice_are_refused_by_name(node, record, f):
    default = getattr(record, f.name)
    wrong = 7 if isinstance(default, str | bool | float) else 'text'
    refused(node, type(record), f.name, wrong)
    if f.metadata['choices']:
        text = refused(node, type(record), f.name, 'nonsense')
        assert all(choice in text for choice in f.metadata['choices'])


def test_a_node_that_configures_reads_again_and_no_other_changes(node):
    bare = node()
    declare(bare, FakeRobotParams)
    result = bare.set_parameters([Parameter('rate_hz', value=10.0)])[0]
    assert not result.successful and 'read-only' in result.reason
    bare = node()
    declare(bare, PolicyParams, configures=True)
    assert bare.set_parameters([Parameter('checkpoint', value='/x')])[0].successful
    assert read(bare, PolicyParams).checkpoint == '/x'
    bare.set_parameters([Parameter('gripper_signs', value=[1.0, 2.0])])
    with pytest.raises(ProfileError, match='gripper_signs'):
        read(bare, PolicyParams)


def test_an_empty_string_stands_for_an_empty_list(node):
    assert declare(node(rotate_180=['']), PolicyParams).rotate_180 == ()
    assert declare(node(rotate_180=['wrist']), PolicyParams).rotate_180 == ('wrist',)


@pytest.mark.parametrize('path', sorted((ROOT / 'config').glob('*.yaml')), ids=lambda p: p.name)
def test_shipped_files_hold_declared_names_and_legal_values(path):
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert content
    for node_name, block in content.items():
        wildcard, _, name = node_name.rpartition('/')
        assert wildcard == '/**', 'it would not match inside a namespace'
        record, values = RECORDS[name], block['ros__parameters']
        from_mapping(record, values, str(path))
        for name, value in values.items():  # ROS does not take 1 for 1.0
            default = getattr(record(), name)
            assert type(value) is (list if isinstance(default, tuple) else type(default)), name
