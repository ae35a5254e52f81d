"""Parameters of the chunk executor: declaration, ranges and documentation in one record."""

from dataclasses import dataclass

from ...config import option
from ...runtime.schedule import FREE, STEPPING


@dataclass(frozen=True)
class ExecutorParams:
    """What a user sets for ``chunk_executor``."""

    output: str = option(
        'none',
        'none: only watch; twist: TwistStamped on ~/twist; pose: PoseStamped on ~/pose_target.',
        choices=('none', 'twist', 'pose'),
    )
    rate_hz: float = option(50.0, 'Rate of the commands, in Hz.', low=5.0, high=500.0)
    stepping: str = option(
        FREE,
        'free: time runs on; synchronous: for a simulator that waits. Twist and gripper of the '
        'due step are sent together until time goes on, nothing where no step is due, and '
        'disarming only pauses.',
        choices=STEPPING,
    )
    max_chunk_age_s: float = option(
        2.0, 'Oldest chunk to move on, by stamp and by receipt, in s.', low=0.05, high=30.0
    )
    max_linear_m_s: float = option(
        1.2, 'A chunk with a faster step is refused, in m/s.', low=0.001, high=10.0
    )
    max_angular_rad_s: float = option(
        7.0, 'A chunk with a faster step is refused, in rad/s.', low=0.001, high=50.0
    )
    zero_commands: int = option(
        5, 'Zero commands sent when motion ends; then silence.', low=1, high=1000
    )
    close_below: float = option(
        0.4, 'Gripper values below close it (0 closed ... 1 open).', low=0.0, high=1.0
    )
    open_above: float = option(
        0.6, 'Gripper values above open it; in between the last command holds.', low=0.0, high=1.0
    )
    gripper_joint: str = option('gripper', 'Joint name in the commands on ~/gripper.')
    gripper_closed: float = option(
        0.0, "Position of that joint when closed, in the driver's unit.", low=-100.0, high=100.0
    )
    gripper_open: float = option(
        1.0, "Position of that joint when open, in the driver's unit.", low=-100.0, high=100.0
    )
    gripper_time_s: float = option(
        0.3, 'time_from_start of a gripper command, in s.', low=0.0, high=10.0
    )
    max_pose_age_s: float = option(
        0.5, 'Oldest ~/ee_pose to start a pose target from, in s.', low=0.01, high=10.0
    )
