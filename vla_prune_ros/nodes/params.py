"""Parameters as frozen dataclasses: one record is the declaration, the range check and the docs.

A field's metadata carries its description, range and whether it may change at run time.
:func:`declare` turns the record into ROS parameters with descriptors and returns it filled with
the values in force.
"""

from dataclasses import field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..errors import ProfileError

Record = TypeVar('Record')


def param(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """One parameter of a record.

    :param doc: one sentence with the unit.
    :param low: lowest allowed number (each element, for arrays).
    :param high: highest allowed number.
    :param choices: the allowed strings.
    :param live: may be set while the node runs; others are read when the node starts or
        configures.

    ROS cannot type an empty array, so an array's default holds at least one item; ``('',)`` is
    none.
    """
    metadata = {'doc': doc, 'low': low, 'high': high, 'choices': choices, 'live': live}
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}


def ros_type(hint: Any) -> Parameter.Type:
    """The ROS type of a field's annotation: bool, int, float, str, or a tuple of one of them."""
    if get_origin(hint) is tuple:
        return _ARRAYS[get_args(hint)[0]]
    return _TYPES[hint]


def defaults(record: type) -> dict[str, Any]:
    """Field name -> default value of a parameter record."""
    return {f.name: getattr(record(), f.name) for f in fields(record)}


def _descriptor(f: Any, fixed: bool) -> ParameterDescriptor:
    meta = f.metadata
    out = ParameterDescriptor(description=meta['doc'], read_only=fixed and not meta['live'])
    if meta['choices']:
        out.additional_constraints = 'one of: ' + ', '.join(meta['choices'])
    # Ranges of arrays are not expressible in a descriptor; check_value holds them.
    if meta['low'] is not None and meta['high'] is not None:
        if f.type in (float, 'float'):
            out.floating_point_range = [
                FloatingPointRange(from_value=float(meta['low']), to_value=float(meta['high']))
            ]
        elif f.type in (int, 'int'):
            out.integer_range = [
                IntegerRange(from_value=int(meta['low']), to_value=int(meta['high']), step=1)
            ]
    return out


def declare(node: Node, record: type[Record], configures: bool = False) -> Record:
    """Declare every field of ``record`` on ``node`` and return the record with the values in
    force.

    Values from the command line or a parameter file override the defaults.

    :param configures: the node reads the record again whenever it configures. Otherwise what is
        not live is read-only: a change that has no effect must not look accepted.
    :raises ProfileError: a value is out of range or of the wrong type.
    """
    for f in fields(record):
        if node.has_parameter(f.name):
            continue
        default = getattr(record(), f.name)
        try:
            node.declare_parameter(
                f.name,
                list(default) if isinstance(default, tuple) else default,
                _descriptor(f, fixed=not configures),
            )
        except Exception as error:  # rclpy raises several classes, each with a readable text
            raise ProfileError(
                f'parameter {f.name}: {str(error).splitlines()[0]}', f'it is: {f.metadata["doc"]}'
            ) from None
    return read(node, record)


def read(node: Node, record: type[Record]) -> Record:
    """The record with the values that are in force now, each checked against its range.

    :raises ProfileError: a value is out of range.
    """
    values = {}
    for f in fields(record):
        value = node.get_parameter(f.name).value
        if get_origin(get_type_hints(record)[f.name]) is tuple:
            value = tuple(item for item in value if item != '')
        problem = check_value(f, value)
        if problem:
            raise ProfileError(f'parameter {f.name}: {problem}', f'it is: {f.metadata["doc"]}')
        values[f.name] = value
    return record(**values)


def check_value(f: Any, value: Any) -> str:
    """Why ``value`` is not allowed for the field ``f``; empty where it is."""
    meta = f.metadata
    for item in value if isinstance(value, tuple) else (value,):
        if meta['choices'] and item not in meta['choices']:
            return f'{item!r} is not one of {", ".join(meta["choices"])}'
        if isinstance(item, float) and item != item:
            return 'nan is not a number'
        if meta['low'] is not None and item < meta['low']:
            return f'{item} is below {meta["low"]}'
        if meta['high'] is not None and item > meta['high']:
            return f'{item} is above {meta["high"]}'
    return ''
