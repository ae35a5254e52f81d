"""What a node offers to the graph: one record creates an endpoint and documents it.

``scripts/interface.py`` starts the nodes and prints docs/interface.md from the records they used.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

# Qualities of service per kind of topic; what is not named is rclpy's default: the last messages,
# reliable and volatile.


def sensor_data(depth: int = 5) -> QoSProfile:
    """Cameras and robot state: best effort, which matches both kinds of publisher."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def lossless() -> QoSProfile:
    """Cameras and robot state in synchronous stepping: reliable, and deeper than a chunk is long,
    so that nothing between two queries is lost behind a busy thread."""
    return QoSProfile(depth=50)


def command() -> QoSProfile:
    """Chunks and commands: reliable, only the latest, never replayed to a late joiner."""
    return QoSProfile(depth=1)


def latched() -> QoSProfile:
    """Instruction and status: reliable, and a late joiner gets the last one."""
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def _overridable(qos: QoSProfile) -> dict[str, Any]:
    """With the options that let a user change the quality of one topic in YAML."""
    kinds = [QoSPolicyKind[k] for k in ('HISTORY', 'DEPTH', 'RELIABILITY', 'DURABILITY')]
    # A copy: rclpy writes the overrides of one endpoint into the profile that it is given.
    return {
        'qos_profile': copy.copy(qos),
        'qos_overriding_options': QoSOverridingOptions(policy_kinds=kinds),
    }


@dataclass(frozen=True)
class Topic:
    """A topic with its quality of service, which a parameter file can override.

    :param name: ``<camera>`` and the like are filled in where the endpoint is created.
    :param doc: unit and frame, and with which parameters the topic exists; for docs/interface.md.
    """

    name: str
    kind: type
    qos: QoSProfile
    doc: str

    def publisher(self, node: Node, qos: QoSProfile | None = None, **names: str) -> Publisher:
        """:param qos: instead of its own."""
        return node.create_publisher(
            self.kind, self.named(**names), **_overridable(qos or self.qos)
        )

    def lifecycle_publisher(self, node: Any, **names: str) -> Publisher:
        """Of a lifecycle node: nothing leaves while that is not active."""
        return node.create_lifecycle_publisher(
            self.kind, self.named(**names), **_overridable(self.qos)
        )

    def subscription(
        self,
        node: Node,
        callback: Callable[[Any], None],
        qos: QoSProfile | None = None,
        **names: str,
    ) -> Any:
        """:param qos: instead of its own."""
        return node.create_subscription(
            self.kind, self.named(**names), callback, **_overridable(qos or self.qos)
        )

    def named(self, **names: str) -> str:
        """The name with what stands for each ``<name>`` in it."""
        topic = self.name
        for name, value in names.items():
            topic = topic.replace(f'<{name}>', value)
        return topic


def rivals(node: Node, publisher: Publisher) -> tuple[int, str]:
    """How many others publish on a topic that is for one, and what to do; empty with nobody."""
    topic = publisher.topic_name
    others = node.count_publishers(topic) - 1
    return others, f'{others} other publishers of {topic}; stop them' if others > 0 else ''


@dataclass(frozen=True)
class Service:
    """A Trigger or SetBool; ``doc`` is for docs/interface.md."""

    name: str
    kind: type
    doc: str

    def serve(self, node: Node, answer: Callable[[Any], tuple[bool, str]]) -> Any:
        """:param answer: request -> success and message."""

        def callback(request: Any, response: Any) -> Any:
            response.success, response.message = answer(request)
            return response

        return node.create_service(self.kind, self.name, callback)
