"""Prints docs/interface.md from what the nodes declare.

python -m vla_prune_ros.nodes.interface_doc > docs/interface.md
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ..profiles import DELTA_POSE_NAMES
from .interface_tables import NODES, PUBLISHED, SERVICES, SUBSCRIBED, Topic
from .interface_words import CHUNK_FIELDS, DIAGNOSTICS, INFERENCE, STATES
from .parameters import ros_type

HEAD = """# Interface of the nodes

<!-- Made by: python -m vla_prune_ros.nodes.interface_doc > docs/interface.md -->
Generated from the sources; a test compares it with running nodes. `~` is the node's own name, for
example `/vla_policy`. `<camera>` is each camera of the profile: `primary` and `wrist` for
`libero`. Units are SI, stamps are ROS time. A parameter that is not live is read when `vla_policy`
configures, and when the other nodes start.
"""

COMMON = """Every node also has rclpy's services for parameters, and `vla_policy` those of a
lifecycle node (`~/change_state`, `~/get_state`, ...). `~/status` of `vla_policy` holds, beside
`state`, what it loaded: `checkpoint`, `head`, `profile`, `unnorm_key`, `pruning`, `parameters`,
`dtype`, `device`, `engine`, `untrained` and `instruction`; that of `chunk_executor` holds `armed`
and `output`.
"""

QOS = """## Quality of service

The tables give the defaults. Every topic but `/diagnostics` takes overrides of `history`, `depth`
and `reliability` in the parameter file. The key holds the full name of the topic after remapping,
then `subscription` or `publisher`:

```yaml
/**/vla_policy:
  ros__parameters:
    qos_overrides./vla_policy/image/primary.subscription.reliability: reliable
    qos_overrides./vla_policy/image/primary.subscription.depth: 2
```

A best-effort subscription takes what a reliable publisher sends. A reliable subscription gets
nothing from a best-effort publisher. With `stepping` synchronous, camera and state topics of
simulator and policy are reliable with a depth of 50.
"""

STEPPING = """## Synchronous stepping

With `stepping` synchronous on all three nodes simulated time stands still until it has been dealt
with, so an episode follows from seed, policy and executor, not from the speed of the machine.

1. `simulator` publishes clock, state and images of T, repeats them every quarter of a second, and
   steps when it has one message on `~/twist` and one on `~/gripper` whose header stamp is T.
   Commands with other stamps are ignored. After `step_timeout_s` it says once what is missing;
   the arm and its clock stand still until the commands come.
2. `chunk_executor` sends both for the step that is due at T, over and over until time goes on, and
   nothing where no step is due. Disarming pauses; arming goes on where it stopped.
3. `vla_policy` queries at the stamp at which the chunk before is used up, from messages of that
   stamp alone. The look back at a query (`refresh_ms`) is finished before its chunk goes out.

A reset of the simulator moves the clock on by 2 s: policy and executor forget what was before from
1 s on. `image_hz`, `replan_period_s` and `sync_slop_s` have no effect.
"""

CHUNK = """## The chunk

`~/action_chunk` is a trajectory of columns that are no joints, so a trajectory controller that is
wired to it by mistake refuses it.
"""

CHUNK_USE = """A consumer drops every step whose time is past. `chunk_executor` refuses a chunk
with other names, with uneven times, with a value that is not finite, beyond `max_linear_m_s` or
`max_angular_rad_s`, or not newer than the one before.
"""

RECORD = """## The record of a query

`~/inference` holds one status with these keys. Values are text; fractions have four digits.
"""

DIAGNOSED = """## Diagnostics

`/diagnostics` holds one status per concern; `safety` names other publishers of the same commands.
`pruning` is at WARN with the reason while a method that asks for the motion of the end effector is
not told.
Without a model the policy sends `vla_policy: state` alone. Counters appear with their first count.
`lost_<reason>` counts messages and queries that were not used;
[troubleshooting](troubleshooting.md) names the reasons.
"""


def render() -> str:
    """The whole page as markdown."""
    parts = [HEAD]
    for node, (about, record) in NODES.items():
        parts += [f'## {node}\n', about + '\n', *_topics(node), *_services(node)]
        parts += ['### Parameters\n', _parameters(record)]
        if node in STATES:
            parts += ['### States\n', _states(node)]
    parts += [COMMON, QOS, STEPPING, CHUNK, _table(('field', 'meaning'), _chunk()), CHUNK_USE]
    parts += [RECORD, _table(('key', 'unit', 'meaning'), _rows(INFERENCE))]
    keys = {f'`{name}`': _code(values) for name, values in DIAGNOSTICS.items()}
    parts += [DIAGNOSED, _table(('status', 'keys'), keys.items())]
    return '\n'.join(parts)


def type_name(kind: Any) -> str:
    """``sensor_msgs/msg/Image`` of a message or service class."""
    package, group = kind.__module__.split('.')[:2]
    return f'{package}/{group}/{kind.__name__}'


def qos_text(qos: QoSProfile) -> str:
    """For example ``reliable, transient local, 1``; the number is the depth."""
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    words = ['reliable' if reliable else 'best effort']
    if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        words.append('transient local')
    return ', '.join([*words, str(qos.depth)])


def _topics(node: str) -> Iterable[str]:
    for title, table in (('Subscribes', SUBSCRIBED), ('Publishes', PUBLISHED)):
        if table[node]:
            yield f'### {title}\n'
            yield _table(('topic', 'type', 'QoS, depth', 'meaning'), map(_topic, table[node]))


def _topic(topic: Topic) -> tuple[str, ...]:
    return f'`{topic.name}`', type_name(topic.kind), qos_text(topic.qos), topic.meaning


def _services(node: str) -> Iterable[str]:
    if not SERVICES[node]:
        return
    yield '### Services\n'
    rows = ((f'`{s.name}`', type_name(s.kind), s.meaning) for s in SERVICES[node])
    yield _table(('service', 'type', 'meaning'), rows)


def _parameters(record: type) -> str:
    hints = get_type_hints(record)
    heads = ('parameter', 'type', 'default', 'allowed', 'live', 'meaning')
    return _table(heads, (_parameter(f, hints[f.name]) for f in fields(record)))


def _parameter(f: Field[Any], hint: Any) -> tuple[str, ...]:
    meta = f.metadata
    allowed = ', '.join(map(str, meta['choices']))
    if meta['low'] is not None:
        allowed = f'{meta["low"]:g} ... {meta["high"]:g}'
    default = f.default_factory() if f.default is MISSING else f.default
    if isinstance(default, tuple):  # an array of one empty text stands for none
        default = [] if default == ('',) else list(default)
    shown = json.dumps(default).replace('"', '') or "''"
    kind = ros_type(hint).name.lower().replace('_', ' ')
    live = 'yes' if meta['live'] else ''
    return f'`{f.name}`', kind, f'`{shown}`', allowed, live, meta['doc']


def _chunk() -> Iterable[tuple[str, ...]]:
    names = ', '.join(DELTA_POSE_NAMES)
    return ((f'`{field}`', text.format(names=names)) for field, text in CHUNK_FIELDS.items())


def _states(node: str) -> str:
    return _table(('state', 'level', 'meaning'), _rows(STATES[node]))


def _rows(words: dict[str, tuple[str, str]]) -> Iterable[tuple[str, ...]]:
    return ((f'`{word}`', *rest) for word, rest in words.items())


def _code(words: Iterable[str]) -> str:
    return ', '.join(f'`{word}`' for word in words)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ('---',) * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'


def main() -> int:
    """Print the page; the exit code."""
    sys.stdout.write(render())
    return 0


if __name__ == '__main__':
    sys.exit(main())
