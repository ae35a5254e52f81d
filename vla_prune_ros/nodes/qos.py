"""Quality of service per kind of topic; YAML can override each (``qos_overrides.``)."""

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)

from .interface import overridable as overridable


def sensor_data(depth: int = 5) -> QoSProfile:
    """Cameras and robot state: best effort, which matches both kinds of publisher."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def lossless() -> QoSProfile:
    """Cameras and robot state in synchronous stepping: reliable, and deeper than a chunk is long,
    so that nothing between two queries is lost behind a busy thread."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=50,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def command() -> QoSProfile:
    """Chunks and commands: reliable, only the latest, never replayed to a late joiner."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched() -> QoSProfile:
    """Instruction and status: reliable, and a late joiner gets the last one."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
