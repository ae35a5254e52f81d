"""The message classes of ROS for :class:`~vla_prune_ros.runtime.messages.MessageBuilder`."""

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from nav_msgs.msg import Path
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64, Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..runtime.messages import MessageBuilder

_CLASSES = (
    *(Duration, Time, DiagnosticArray, DiagnosticStatus, KeyValue),
    *(Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3, Path),
    *(CompressedImage, Image, JointState, Float64, Header, String),
    *(JointTrajectory, JointTrajectoryPoint),
)


def _array(code: str, values: Any) -> array:
    return array(code, np.asarray(values, code).tobytes())  # the one kind that no setter checks


build = MessageBuilder(
    {f'{c.__module__.split(".")[0]}/msg/{c.__name__}': c for c in _CLASSES}, _array
)
"""Makes messages that publishers of rclpy take."""
