"""What is gathered while one pruning method drives an arm, for reports."""

from dataclasses import dataclass, field


@dataclass
class MethodRun:
    """Raw material of one table column.

    :param method: pruning method as the user wrote it.
    :param records: values of ``~/inference``, one mapping per query.
    :param chunks: chunks received.
    :param moved_m: path length of the end effector over all episodes, m.
    """

    method: str
    records: list[dict[str, str]] = field(default_factory=list)
    chunks: int = 0
    episodes: int = 0
    successes: int = 0
    moved_m: float = 0.0
