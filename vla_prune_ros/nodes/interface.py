"""What a node offers to the graph: one record creates an endpoint and documents it.

``scripts/interface.py`` starts the nodes and prints docs/interface.md from the records they used.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

_KINDS = ('HISTORY', 'DEPTH', 'RELIABILITY', 'DURABILITY')


def overridable() -> QoSOverridingOptions:
    """Lets a user change history, depth, reliability and durability of one topic in YAML."""
    return QoSOverridingOptions(policy_kinds=[QoSPolicyKind[kind] for kind in _KINDS])


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
        return node.create_publisher(self.kind, self.named(**names), **self._quality(qos))

    def lifecycle_publisher(self, node: Any, **names: str) -> Publisher:
        """Of a lifecycle node: nothing leaves while that is not active."""
        return node.create_lifecycle_publisher(
            self.kind, self.named(**names), **self._quality(None)
        )

    def subscription(
        self,
        node: Node,
        callback: Callable[[Any], None],
        qos: QoSProfile | None = None,
        **names: str,
    ) -> Any:
        """:param qos: instead of its own."""
        quality = self._quality(qos)
        return node.create_subscription(self.kind, self.named(**names), callback, **quality)

    def named(self, **names: str) -> str:
        """The name with what stands for each ``<name>`` in it."""
        topic = self.name
        for name, value in names.items():
            topic = topic.replace(f'<{name}>', value)
        return topic

    def _quality(self, qos: QoSProfile | None) -> dict[str, Any]:
        # A copy: rclpy writes the overrides of one endpoint into the profile that it is given.
        profile = copy.copy(qos or self.qos)
        return {'qos_profile': profile, 'qos_overriding_options': overridable()}


@dataclass(frozen=True)
class Service:
    """A service; ``doc`` is for docs/interface.md."""

    name: str
    kind: type
    doc: str

    def serve(self, node: Node, callback: Callable[[Any, Any], Any]) -> Any:
        """:param callback: takes request and response, returns the response."""
        return node.create_service(self.kind, self.name, callback)
