"""How every node of this package runs and ends as a process, and how a tool talks to nodes."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ..errors import VlaPruneError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Ended(BaseException):
    """A signal, raised in the main thread so that a model which loads gives way as well."""


def run_node(make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin one node until it is interrupted; returns the exit code of the process.

    SIGINT and SIGTERM end it with 0 and without a traceback, also while it loads a model; the
    context is still valid when the node is destroyed, so that it can send a last command. A
    :class:`VlaPruneError` at construction ends it with 1 and one line.
    """
    asked = []

    def end(number: int, frame: Any) -> None:
        asked.append(number)
        raise _Ended

    for number in _SIGNALS:
        signal.signal(number, end)
    node = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not asked:  # it may have been raised where somebody caught it
            executor.spin_once()
    except (_Ended, ExternalShutdownException):
        pass
    except VlaPruneError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except Exception:
        if not asked:  # else a signal inside C++, which makes another error of it
            raise
    finally:
        for number in _SIGNALS:  # a second Ctrl-C must not interrupt the last words
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


@contextlib.contextmanager
def ros_context() -> Iterator[None]:
    """rclpy for a tool in a terminal: Ctrl-C is a KeyboardInterrupt, wherever it strikes."""
    asked = []

    def interrupt(number: int, frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        yield
    except Exception:
        if asked:  # a signal inside C++, which makes another error of it
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        rclpy.try_shutdown()
