"""How every node of this package runs and ends as a process."""

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from ..errors import VlaPruneError


class _Terminated(BaseException):
    """SIGTERM, raised in the main thread so that blocking work ends as on Ctrl-C."""


def _terminate(number: int, frame: Any) -> None:
    raise _Terminated


def run_node(make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin one node until it is interrupted; returns the exit code of the process.

    SIGINT and SIGTERM end it with 0 and without a traceback, also while it loads a model. A
    :class:`VlaPruneError` at construction ends it with 1 and one line.
    """
    rclpy.init(args=args)
    signal.signal(signal.SIGTERM, _terminate)
    node = None
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException, _Terminated):
        pass
    except VlaPruneError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    finally:
        with contextlib.suppress(KeyboardInterrupt, _Terminated):
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
    return 0
