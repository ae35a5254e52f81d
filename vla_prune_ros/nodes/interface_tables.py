"""What the nodes offer to the graph, as data: :mod:`.interface_doc` prints it.

A test compares these tables with running nodes, in both directions.
"""

from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Path
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from .bag_player_params import BagPlayerParams
from .executor_params import ExecutorParams
from .policy_params import PolicyParams
from .qos import command, latched, sensor_data
from .simulator_params import SimulatorParams

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
