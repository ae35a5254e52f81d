"""The latched status of a node and its share of ``/diagnostics``."""

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile

from .interface import Topic, latched
from .messages import build

STATUS = Topic(
    '~/status', DiagnosticStatus, latched(), 'State word and reason; published on change.'
)
DIAGNOSTICS = Topic(
    '/diagnostics', DiagnosticArray, QoSProfile(depth=10), 'Counters and rates, once a second.'
)
OK, WARN, ERROR = build.OK, build.WARN, build.ERROR


class StatusReporter:
    """Publishes the node's state when it changes, and logs each change once.

    :param states: the state words with their meaning; no other is allowed.
    """

    def __init__(self, node: Node, states: Mapping[str, Any]) -> None:
        self._node, self._states = node, states
        self._status = STATUS.publisher(node)
        self._diagnostics = DIAGNOSTICS.publisher(node)
        self._current: tuple[str, str] = ('', '')
        self._published: tuple[str, str, dict[str, Any]] | None = None
        self.level = OK

    @property
    def state(self) -> str:
        return self._current[0]

    def set(
        self, state: str, reason: str = '', level: bytes = OK, code: str = '', **values: Any
    ) -> None:
        """Announce a state; publishes where anything changed and logs where state or reason did.

        :param reason: one line that names the thing and the remedy; empty where all is well.
        :param code: what the reason is about, where its text holds numbers that change.
        """
        if (state, code or reason, values) == self._published:
            return
        assert state in self._states, f'{state} is not documented'
        self._published = (state, code or reason, values)
        self.level = level
        name, values = self._node.get_name(), {'state': state, **values}
        self._status.publish(build.status(name, values, message=reason or state, level=level))
        if (state, code or reason) != self._current:
            self._current = (state, code or reason)
            text = f'{state}: {reason}' if reason else state
            logger = self._node.get_logger()  # one call site each: rclpy ties a severity to a line
            if level == ERROR:
                logger.error(text)
            elif level == WARN:
                logger.warning(text)
            else:
                logger.info(text)

    def diagnose(
        self, hardware_id: str, concerns: Mapping[str, tuple[bytes, str, Mapping[str, Any]]]
    ) -> None:
        """Publish one status per concern: name -> (level, text, values)."""
        name = self._node.get_name()
        statuses = [
            build.status(
                f'{name}: {k}', values, message=text, level=level, hardware_id=hardware_id
            )
            for k, (level, text, values) in concerns.items()
        ]
        now_ns = self._node.get_clock().now().nanoseconds
        self._diagnostics.publish(build.diagnostics(statuses, now_ns))
