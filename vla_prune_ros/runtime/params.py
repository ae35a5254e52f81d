"""The parameters of ``vla_policy``: each is declared, checked and documented here alone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..config import from_mapping, load_yaml, option
from ..errors import ProfileError
from ..profiles import Profile, load_profile
from .guard import Limits
from .motion import ActionMotion, JacobianMotion, JointSpeedMotion, MotionSource, PoseMotion
from .pairing import PairingLimits
from .schedule import FREE, STEPPING, SYNCHRONOUS
from .state import GripperJoints

NODE = 'vla_policy'


@dataclass(frozen=True)
class SessionParams:
    """How a robot is wired, what its arm may do, and when the policy is asked: what node, replay,
    closed loop and the reading of training bags share."""

    instruction: str = option(
        '', 'The task in plain words; the topic ~/instruction sets it as well.', live=True
    )
    rotate_180: tuple[str, ...] = option(
        (), 'Cameras whose frames are turned by 180 degrees first.'
    )
    gripper_joints: tuple[str, ...] = option(
        ('panda_finger_joint1', 'panda_finger_joint2'),
        'Finger joints in ~/joint_states, in the order of the state.',
    )
    gripper_signs: tuple[float, ...] = option(
        (1.0, 1.0), 'Factor of +1 or -1 per finger joint.', low=-1, high=1
    )
    pose_offset_m: tuple[float, ...] = option(
        (0.0, 0.0, 0.0),
        'Added to the position of ~/ee_pose, in m: from the '
        "robot's base to the frame the checkpoint was trained in.",
        low=-100,
        high=100,
    )
    frame_id: str = option('base_link', 'Frame of the published deltas.')
    motion_source: str = option(
        'pose',
        'Where the speed of the end effector comes from, for pruning that asks for it: pose '
        'differences, joint velocities through the Jacobian of the URDF, the fastest joint '
        'times reach_m, or the step of the last chunk that is due.',
        choices=('pose', 'joint_velocities', 'joint_speed', 'actions'),
    )
    urdf: str = option(
        '',
        'For motion_source joint_velocities: path of a URDF, package://NAME/PATH, or its XML; '
        'empty: taken from ~/robot_description.',
    )
    ee_link: str = option(
        '', 'For motion_source joint_velocities: link of the URDF whose speed counts.'
    )
    base_link: str = option(
        '',
        'For motion_source joint_velocities: link whose z axis points up, relative to which the '
        "speed is taken; empty for the URDF's root.",
    )
    reach_m: float = option(
        0.0,
        'For motion_source joint_speed: length of the stretched arm, in m.',
        low=0.0,
        high=10.0,
    )
    arm_joints: tuple[str, ...] = option(
        (),
        'For motion_source joint_speed: joints of the arm; empty for all but gripper_joints.',
    )
    sync_slop_s: float = option(
        0.02,
        'Largest difference between two images of a pair, in s: less than a frame period.',
        low=0.0,
        high=1.0,
    )
    max_input_age_s: float = option(
        0.5, 'Oldest input, by header and by receipt, in s.', low=0.01, high=10.0
    )
    replan_period_s: float = option(
        0.2,
        'Least time between two queries by image stamp, in s; 0: every image. With stepping '
        'synchronous it is the length of a chunk.',
        low=0.0,
        high=10.0,
    )
    stepping: str = option(
        FREE,
        'free: time runs on; synchronous: for a simulator that waits. A query comes when the '
        'chunk before is used up, its messages have one stamp, and no frame is lost.',
        choices=STEPPING,
    )
    frozen_frames: int = option(
        0,
        'Identical frames in a row after which a camera counts as frozen and inference '
        'stops; 0: only warn, after 30.',
        low=0,
        high=10000,
    )
    max_step_m: float = option(0.06, 'Largest translation of one step, in m.', low=1e-6, high=1.0)
    max_step_rad: float = option(0.35, 'Largest rotation of one step, in rad.', low=1e-6, high=3.1)
    speed_scale: float = option(
        1.0, 'Factor on every step before the limits are checked.', low=0.01, high=1.0
    )

    def check(self, profile: Profile) -> None:
        """:raises ProfileError: a parameter is not usable, or does not suit the profile."""
        from_mapping(type(self), vars(self), NODE)
        self.limits()
        self.fingers()
        unknown = sorted(set(self.rotate_180) - set(profile.cameras))
        if unknown:
            what = f'rotate_180 names camera {", ".join(map(repr, unknown))}'
            raise ProfileError(what, f'use names of {list(profile.cameras)}')
        if len(self.pose_offset_m) != 3:
            raise ProfileError(
                f'pose_offset_m has {len(self.pose_offset_m)} numbers', 'give x, y and z in m'
            )

    @property
    def synchronous(self) -> bool:
        return self.stepping == SYNCHRONOUS

    def period_s(self, profile: Profile) -> float:
        """Least time between the images of two requests."""
        if self.synchronous:
            return profile.chunk * profile.control_period_s
        return self.replan_period_s

    def pairing(self) -> PairingLimits:
        if self.synchronous:  # one instant: what is not there yet comes, or comes again
            return PairingLimits(0.0, self.max_input_age_s, state_slop_s=0.0)
        return PairingLimits(self.sync_slop_s, self.max_input_age_s)

    def limits(self) -> Limits:
        return Limits(self.max_step_m, self.max_step_rad, speed_scale=self.speed_scale)

    def fingers(self) -> GripperJoints:
        return GripperJoints(self.gripper_joints, self.gripper_signs)

    def motion(self, urdf: str = '') -> MotionSource:
        """:raises ProfileError: the source lacks a parameter, or one is not usable."""
        sources: dict[str, Callable[[], MotionSource]] = {
            'pose': PoseMotion,
            'joint_velocities': lambda: JacobianMotion(
                urdf or self.urdf, self.ee_link, self.base_link
            ),
            'joint_speed': lambda: JointSpeedMotion(
                self.reach_m, self.arm_joints, self.gripper_joints
            ),
            'actions': ActionMotion,
        }
        if self.motion_source not in sources:
            what = f'motion source {self.motion_source!r} is unknown'
            raise ProfileError(what, f'use {", ".join(sources)}')
        return sources[self.motion_source]()


@dataclass(frozen=True)
class PolicyParams(SessionParams):
    checkpoint: str = option('', 'Folder of the checkpoint in the published OpenVLA-OFT layout.')
    profile: str = option(
        'libero', 'Robot profile: libero, aloha, bridge, or the path of a .yaml profile.'
    )
    unnorm_key: str = option(
        '', 'Key of dataset_statistics.json; empty where the file holds only one.'
    )
    tokenizer: str = option('', "Folder of the tokenizer; empty for the checkpoint's own.")
    pruning: str = option(
        'dense',
        "Pruning method: a name ('dense', 'specprune'), a name with a preset or a budget per "
        "camera ('specprune:paper', 'uniform:128,64'), one line of YAML ('{name: uniform, budget: "
        "[128, 64]}'), or the path of a .yaml file with such a mapping.",
    )
    device: str = option('cpu', "Torch device: 'cpu', 'cuda' or 'cuda:1'.")
    dtype: str = option(
        'float32',
        'Type of the weights; int8 and int4 take less memory and more time than bfloat16.',
        choices=('float32', 'bfloat16', 'int8', 'int4'),
    )
    engine: str = option(
        'auto',
        'How the network is run: eager, operation by operation; graphs, as CUDA graphs, which are '
        'recorded per length of the instruction and mode; auto: graphs on a CUDA device.',
        choices=('auto', 'graphs', 'eager'),
    )
    head: str = option(
        'auto',
        'Action head; auto finds it from the files of the checkpoint.',
        choices=('auto', 'l1', 'diffusion', 'discrete'),
    )
    diffusion_steps: int = option(
        10, 'Denoising steps of a diffusion head; each is a pass of the decoder.', low=1, high=50
    )
    fast_images: bool = option(
        False, 'Resize and crop in half the time, with pixels up to 2 levels off.'
    )
    threads: int = option(0, 'CPU threads of torch; 0 leaves its own choice.', low=0, high=256)
    autostart: bool = option(
        False, 'Configure and activate at start, without a lifecycle manager.'
    )
    start_on_activate: bool = option(
        True, 'Infer as soon as the node is active; else wait for ~/start.'
    )
    image_transport: str = option(
        'raw',
        'raw: sensor_msgs/Image; compressed: the topic with /compressed.',
        choices=('raw', 'compressed'),
    )
    inference_timeout_s: float = option(
        10.0,
        'Time after which a running inference is reported as hung, in s.',
        low=0.1,
        high=600.0,
    )
    max_faults: int = option(
        3, 'Failed inferences in a row that latch a fault until ~/reset.', low=1, high=100
    )

    def load_profile(self) -> Profile:
        """:raises ProfileError: a parameter is empty, or does not suit the profile."""
        if not self.checkpoint:
            raise ProfileError(
                'parameter checkpoint is empty', 'set it to the folder of a checkpoint'
            )
        profile = load_profile(self.profile)
        if profile.action_kind != 'delta_pose':
            raise ProfileError(
                f'profile {profile.name!r} commands {profile.action_kind}',
                'vla_policy publishes end-effector deltas; use load_policy() in Python for it',
            )
        self.check(profile)
        return profile


def load_params(path: str | Path) -> SessionParams:
    """From a ROS parameter file for ``vla_policy``; what only the node needs is left aside.
    :raises ProfileError: it cannot be read, has none for the node, or an unusable value."""
    found: dict[str, Any] = {}
    for name, entry in load_yaml(path, 'parameter file').items():
        parameters = entry.get('ros__parameters') if isinstance(entry, Mapping) else None
        if str(name).rsplit('/', 1)[-1] in (NODE, '**') and isinstance(parameters, Mapping):
            found |= parameters
    if not found:
        raise ProfileError(
            f'parameter file {path} has no parameters of {NODE}',
            f'give a file with {NODE}: ros__parameters: ..., as config/robot.yaml',
        )
    known = {f.name for f in fields(SessionParams)}
    values = {
        # ROS cannot type an empty array: a file has one empty word in its place.
        name: [v for v in value if v != ''] if isinstance(value, list) else value
        for name, value in found.items()
        if name in known
    }
    return from_mapping(SessionParams, values, f'parameter file {path}')


def save_params(path: str | Path, params: SessionParams, **more: Any) -> None:
    """Write a ROS parameter file for ``vla_policy``; ``more``: parameters beside the record."""
    values = {**asdict(params), **more}
    plain = {k: list(v) or [''] if isinstance(v, tuple) else v for k, v in values.items()}
    text = yaml.safe_dump({f'/**/{NODE}': {'ros__parameters': plain}}, sort_keys=False)
    Path(path).write_text(text, encoding='utf-8')
