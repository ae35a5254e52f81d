"""A robot that only talks: two VGA cameras and state at fixed rates, for the node benchmark."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from ...config import option
from ..interface import latched, sensor_data
from ..messages import build
from ..params import declare
from ..process import run_node

CAMERAS = ('primary', 'wrist')
JOINTS = (*(f'panda_joint{i}' for i in range(1, 8)), 'panda_finger_joint1', 'panda_finger_joint2')
_POSITIONS = [0.0] * 7 + [0.02, -0.02]
_DOWN = (1.0, 0.0, 0.0, 0.0)  # gripper pointing down, x y z w


@dataclass(frozen=True)
class FakeRobotParams:
    rate_hz: float = option(30.0, 'Frames per second and camera.', low=1.0, high=120.0)
    state_hz: float = option(100.0, 'Pose and joint messages per second.', low=1.0, high=1000.0)
    width: int = option(640, 'Width of the frames in pixels.', low=16, high=4096)
    height: int = option(480, 'Height of the frames in pixels.', low=16, high=4096)
    instruction: str = option('pick up the red cube', 'The task it asks for.')


class FakeRobotNode(Node):
    """Publishes noise images and a resting arm; ``~/published`` counts what it sent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('fake_robot', **kwargs)
        params = declare(self, FakeRobotParams)
        random = np.random.default_rng(0)
        shape = (params.height, params.width, 3)
        # A few frames in turn: making noise at camera rate would cost more than sending it.
        self._frames = [
            build.image(random.integers(0, 256, shape, np.uint8), self._now_ns()) for _ in range(4)
        ]
        self._sent = dict.fromkeys(CAMERAS, 0)
        sensor, publisher = sensor_data(), self.create_publisher
        self._cameras = {c: publisher(Image, f'~/image/{c}', sensor) for c in CAMERAS}
        self._pose = publisher(PoseStamped, '~/ee_pose', sensor)
        self._joints = publisher(JointState, '~/joint_states', sensor)
        self._published = publisher(DiagnosticArray, '~/published', 10)
        self._instruction = publisher(String, '~/instruction', latched())
        self._instruction.publish(String(data=params.instruction))
        self.create_timer(1.0 / params.rate_hz, self._images)
        self.create_timer(1.0 / params.state_hz, self._state)
        self.create_timer(0.5, self._report)

    def _images(self) -> None:
        for i, (camera, publisher) in enumerate(self._cameras.items()):
            message = self._frames[(self._sent[camera] + i) % len(self._frames)]
            message.header.stamp = self.get_clock().now().to_msg()
            message.header.frame_id = f'{camera}_optical'
            publisher.publish(message)
            self._sent[camera] += 1

    def _state(self) -> None:
        now_ns = self._now_ns()
        self._pose.publish(build.pose((0.0, 0.0, 1.1), _DOWN, now_ns, 'world'))
        self._joints.publish(build.joints(JOINTS, _POSITIONS, [0.0] * len(JOINTS), now_ns))

    def _report(self) -> None:
        status = build.status('fake_robot: published', self._sent, message='ok')
        self._published.publish(build.diagnostics([status], self._now_ns()))

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def main(args: list[str] | None = None) -> int:
    return run_node(FakeRobotNode, args)


if __name__ == '__main__':
    sys.exit(main())
