"""A record of options (:mod:`..config`) as the parameters of a ROS node."""

from dataclasses import Field, fields
from typing import Any, TypeVar, get_origin, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from ..config import out_of_range
from ..errors import ProfileError

Record = TypeVar('Record')


def _descriptor(f: Field, hint: Any, fixed: bool) -> ParameterDescriptor:
    meta = f.metadata
    out = ParameterDescriptor(description=meta['doc'], read_only=fixed and not meta['live'])
    if meta['choices']:
        out.additional_constraints = 'one of: ' + ', '.join(meta['choices'])
    # A descriptor cannot hold the range of an array; read() checks it.
    if hint in (int, float) and meta['low'] is not None and meta['high'] is not None:
        limits = {'from_value': hint(meta['low']), 'to_value': hint(meta['high'])}
        if hint is float:
            out.floating_point_range = [FloatingPointRange(**limits)]
        else:
            out.integer_range = [IntegerRange(**limits, step=1)]
    return out


def declare(node: Node, record: type[Record], configures: bool = False) -> Record:
    """Declare every field of ``record`` on ``node``; the record with the values in force.

    :param configures: the node reads the record again whenever it configures. Otherwise what is
        not live is read-only: a change that has no effect must not look accepted.
    :raises ProfileError: a value is out of range or of the wrong type.
    """
    defaults, hints = record(), get_type_hints(record)
    for f in fields(record):
        if node.has_parameter(f.name):
            continue
        default = getattr(defaults, f.name)
        if isinstance(default, tuple):
            default = list(default) or ['']  # ROS cannot tell the type of an empty array
        try:
            descriptor = _descriptor(f, hints[f.name], fixed=not configures)
            node.declare_parameter(f.name, default, descriptor)
        except Exception as error:  # rclpy raises several classes, each with a readable text
            raise ProfileError(
                f'parameter {f.name}: {str(error).splitlines()[0]}', f'it is: {f.metadata["doc"]}'
            ) from None
    return read(node, record)


def read(node: Node, record: type[Record]) -> Record:
    """The record with the values in force. :raises ProfileError: a value is out of range."""
    values, hints = {}, get_type_hints(record)
    for f in fields(record):
        value = node.get_parameter(f.name).value
        if get_origin(hints[f.name]) is tuple:
            value = tuple(item for item in value if item != '')
        if problem := out_of_range(f, value):
            raise ProfileError(f'parameter {f.name}: {problem}', f'it is: {f.metadata["doc"]}')
        values[f.name] = value
    return record(**values)
