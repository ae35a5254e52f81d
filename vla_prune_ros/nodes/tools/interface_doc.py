"""Words and keys that the nodes say, with their meaning: :mod:`.interface_doc` prints them.

A test compares them with what running nodes publish and with the words in their sources.

What the nodes offer to the graph, as data: :mod:`.interface_doc` prints it.

A test compares these tables with running nodes, in both directions.

Prints docs/interface.md from what the nodes declare.

python -m vla_prune_ros.nodes.tools.interface_doc > docs/interface.md
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, get_type_hints

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Path
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ...profiles import DELTA_POSE_NAMES
from ...records import InferenceRecord
from ...runtime.params import PolicyParams
from ..executor.params import ExecutorParams
from ..params import ros_type
from ..qos import command, latched, sensor_data
from ..simulator.params import SimulatorParams
from .bag_player import BagPlayerParams

STATES: dict[str, dict[str, tuple[str, str]]] = {
    'vla_policy': {
        'UNCONFIGURED': ('OK or ERROR', 'No model. With ERROR: why `configure` failed.'),
        'LOADING': ('OK', 'Reading the checkpoint, then one query to warm up.'),
        'INACTIVE': ('OK', 'Loaded; no chunk leaves before `activate`.'),
        'WAITING': ('WARN', 'An input is missing or stale, or there is no instruction.'),
        'RUNNING': ('OK', 'Chunks go out.'),
        'LATE': ('WARN', 'Chunks come out after their last step was due.'),
        'REFUSED': ('WARN', 'The last message, query or chunk was not usable; it tries on.'),
        'STOPPED': ('OK', '`~/stop` was called, or `~/start` not yet.'),
        'TIMEOUT': ('ERROR', 'A query runs longer than `inference_timeout_s`.'),
        'FAULT': ('ERROR', '`max_faults` failures in a row; only `~/reset` ends it.'),
        'FINALIZED': ('OK', 'Shut down.'),
    },
    'chunk_executor': {
        'DISARMED': ('OK', 'Nothing is sent before `~/arm`.'),
        'MOVING': ('OK', 'A step of the chunk is due now.'),
        'HOLDING': (
            'WARN or OK',
            'Armed without a due step: zero commands, then silence. OK where time waits for one.',
        ),
        'REFUSED': ('ERROR', 'The last chunk was refused; the reason says why.'),
    },
}
"""Node -> state word -> (level, meaning)."""

CHUNK_FIELDS: dict[str, str] = {
    'header.stamp': 'Stamp of the newest image; path, overlays and record of the query share it.',
    'header.frame_id': 'Parameter `frame_id`: the frame of the deltas.',
    'joint_names': '`{names}`',
    'points[i].positions': 'Step i: translation in m, rotation vector in rad applied from the '
    'left, both along the axes of the frame; gripper 0 closed ... 1 open.',
    'points[i].velocities': 'The deltas divided by the control period, m/s and rad/s; gripper 0.',
    'points[i].time_from_start': '(i + 1) control periods: step i is complete at the stamp plus '
    'this time.',
}
"""Field of ``~/action_chunk`` -> meaning."""

INFERENCE = InferenceRecord.keys()
"""Key of ``~/inference`` -> (unit, meaning).

``<stream>`` is a camera, ee_pose or joint_states; ``<key>`` is the pruning method's.
"""

DIAGNOSTICS: dict[str, tuple[str, ...]] = {
    'vla_policy: inputs': ('<stream>_rate_hz', '<stream>_received', 'lost_<reason>'),
    'vla_policy: inference': (
        'chunks',
        'faults_in_a_row',
        'busy_s',
        'replaced_jobs',
        'discarded_jobs',
    ),
    'vla_policy: pruning': (
        'method',
        'motion_source',
        'mode',
        'reason',
        'motion',
        'motion_why',
        'visual_tokens',
        'refresh_ms',
    ),
    'vla_policy: safety': ('other_chunk_publishers',),
    'chunk_executor: execution': (
        'armed',
        'loaded',
        'refused',
        'time_jump',
        'executed',
        'skipped',
        'superseded',
        'commands',
    ),
    'chunk_executor: safety': (),
}
"""Status of ``/diagnostics`` -> its keys; counters appear with their first count."""


NODES: dict[str, tuple[str, type]] = {
    'vla_policy': (
        'Lifecycle node. Cameras and robot state in, checked action chunks out.',
        PolicyParams,
    ),
    'chunk_executor': (
        'Streams the due step of the newest chunk as velocity or pose commands, once armed.',
        ExecutorParams,
    ),
    'simulator': (
        'A simulated scene instead of a robot; obeys twist and gripper commands.',
        SimulatorParams,
    ),
    'bag_player': (
        'A recorded bag instead of a robot. Its process ends with the bag, unless that loops.',
        BagPlayerParams,
    ),
}
"""Node name -> what it is, and its parameter record."""


class Topic(NamedTuple):
    """One topic of a node; ``<camera>`` in the name stands for each camera of the profile, and the
    name of another stream for its topic in a bag."""

    name: str
    kind: Any
    qos: QoSProfile
    meaning: str


class Service(NamedTuple):
    """One service of a node."""

    name: str
    kind: Any
    meaning: str


_STATUS = Topic(
    '~/status', DiagnosticStatus, latched(), 'State word and reason; published on change.'
)
_DIAGNOSTICS = Topic(
    '/diagnostics', DiagnosticArray, QoSProfile(depth=10), 'Counters and rates, once a second.'
)

SUBSCRIBED: dict[str, tuple[Topic, ...]] = {
    'vla_policy': (
        Topic(
            '~/image/<camera>',
            Image,
            sensor_data(),
            'Frame of one camera, any colour encoding, padded rows too. '
            'With `image_transport` raw.',
        ),
        Topic(
            '~/image/<camera>/compressed',
            CompressedImage,
            sensor_data(),
            'The same as JPEG or PNG. With `image_transport` compressed.',
        ),
        Topic(
            '~/ee_pose',
            PoseStamped,
            sensor_data(),
            "End effector in the robot's base frame: m, quaternion of either sign. "
            'With `proprio_kind` pose_gripper or `motion_source` pose.',
        ),
        Topic(
            '~/joint_states',
            JointState,
            sensor_data(),
            'Finger positions by name, m. Each message holds all of `gripper_joints`. '
            'With `motion_source` joint_velocities or joint_speed velocities of the arm too, '
            'rad/s.',
        ),
        Topic(
            '~/robot_description',
            String,
            latched(),
            'URDF. With `motion_source` joint_velocities and an empty `urdf`.',
        ),
        Topic(
            '~/instruction', String, latched(), 'The task in plain words, at most 400 characters.'
        ),
    ),
    'chunk_executor': (
        Topic('~/action_chunk', JointTrajectory, command(), 'Chunks of `vla_policy`.'),
        Topic(
            '~/ee_pose',
            PoseStamped,
            sensor_data(),
            'Measured pose in the frame of the chunk; each pose target starts from it.',
        ),
    ),
    'simulator': (
        Topic('~/twist', TwistStamped, command(), 'Velocity along world axes, m/s and rad/s.'),
        Topic('~/gripper', JointTrajectory, command(), 'Joint `gripper`, 0 closed ... 1 open.'),
    ),
    'bag_player': (),
}

PUBLISHED: dict[str, tuple[Topic, ...]] = {
    'vla_policy': (
        Topic('~/action_chunk', JointTrajectory, command(), 'The chunk; see below.'),
        Topic(
            '~/chunk_path',
            Path,
            command(),
            'Where the chunk leads from the measured position, m; translations only. '
            'Made only while somebody subscribes.',
        ),
        Topic(
            '~/overlay/<camera>',
            CompressedImage,
            sensor_data(1),
            'What the model saw, 224 x 224 JPEG, pruned patches dimmed. '
            'Made only while somebody subscribes.',
        ),
        Topic('~/inference', DiagnosticArray, sensor_data(10), 'One record per query; see below.'),
        _STATUS,
        _DIAGNOSTICS,
    ),
    'chunk_executor': (
        Topic(
            '~/twist',
            TwistStamped,
            command(),
            'Velocity of the due step in the frame of the chunk, m/s and rad/s, stamped with the '
            'time from which it holds. With `output` twist.',
        ),
        Topic(
            '~/pose_target',
            PoseStamped,
            command(),
            'Measured pose plus the steps of the chunk so far. With `output` pose.',
        ),
        Topic(
            '~/gripper',
            JointTrajectory,
            command(),
            'Joint `gripper`, one point: 0 close or 1 open; sent when it changes, with `stepping` '
            'synchronous at every step.',
        ),
        _STATUS,
        _DIAGNOSTICS,
    ),
    'simulator': (
        Topic(
            '~/image/<camera>',
            Image,
            sensor_data(),
            'rgb8 as the renderer makes it, row 0 at the bottom; turn it with `rotate_180`.',
        ),
        Topic('~/ee_pose', PoseStamped, sensor_data(), 'Grip point in the world frame, m.'),
        Topic('~/joint_states', JointState, sensor_data(), 'Arm in rad, fingers in m.'),
        Topic('~/instruction', String, latched(), 'The task of the episode.'),
        Topic(
            '~/episode',
            DiagnosticArray,
            command(),
            'Episode, step, seed, path length, success; `generated_assets` true where shapes '
            'stand in for files that are missing. At WARN while it waits for commands.',
        ),
        Topic('/clock', Clock, command(), 'Simulated time; starts at 1 s, never goes back.'),
    ),
    'bag_player': (
        Topic(
            '/vla_policy/image/<camera>',
            Image,
            sensor_data(),
            'As recorded, under the name that `target` says, like the next four. A stamp of zero '
            'becomes the time of receipt.',
        ),
        Topic(
            '/vla_policy/image/<camera>/compressed',
            CompressedImage,
            sensor_data(),
            'Instead, where the bag holds compressed images.',
        ),
        Topic('/vla_policy/ee_pose', PoseStamped, sensor_data(), 'As recorded.'),
        Topic('/vla_policy/joint_states', JointState, sensor_data(), 'As recorded.'),
        Topic('/vla_policy/instruction', String, latched(), 'As recorded.'),
        Topic(
            '/recorded/<twist>',
            TwistStamped,
            command(),
            'What was commanded, for plots; `recorded_prefix` and the name in the bag, like the '
            'next three.',
        ),
        Topic('/recorded/<pose_target>', PoseStamped, command(), 'The same as poses.'),
        Topic('/recorded/<gripper>', JointTrajectory, command(), 'The same of the gripper.'),
        Topic(
            '/recorded/<action_chunk>',
            JointTrajectory,
            command(),
            'Chunks of the recorded policy; never on the `~/action_chunk` of the live one.',
        ),
        Topic(
            '/clock',
            Clock,
            command(),
            'Time of the bag: of receipt, or of the stamps where these are of another clock. '
            'Jumps back at each loop. With `clock`.',
        ),
    ),
}

SERVICES: dict[str, tuple[Service, ...]] = {
    'vla_policy': (
        Service('~/start', Trigger, 'Infer; needed only with `start_on_activate` false.'),
        Service('~/stop', Trigger, 'Stop inferring; the model stays loaded.'),
        Service('~/reset', Trigger, 'Forget buffers, pruning memory and a latched fault.'),
    ),
    'chunk_executor': (
        Service('~/arm', SetBool, 'True lets commands out, false stops. Forgets the old chunk.'),
        Service('~/stop', Trigger, 'The same as `~/arm` with false.'),
    ),
    'simulator': (
        Service('~/reset', Trigger, 'Start the next episode; answers its number, seed and task.'),
        Service('~/pause', SetBool, 'Stop and go on; `/clock` stands still meanwhile.'),
    ),
    'bag_player': (),
}


HEAD = """# Interface of the nodes

<!-- Made by: python -m vla_prune_ros.nodes.tools.interface_doc > docs/interface.md -->
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
    if isinstance(default, tuple):
        default = list(default)
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
