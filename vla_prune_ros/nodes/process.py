"""How every node of this package runs and ends as a process, and how a tool talks to nodes.

A signal first only asks: an exception that strikes inside rclpy's C++ or a destructor comes out as
another error, or as none.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ..errors import ProfileError, VlaPruneError
from ..runtime.schedule import SYNCHRONOUS

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 0.5


class _Ended(BaseException):
    """Raised in the main thread where a callback blocks for long after the end was asked for."""


def run_node(make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin one node until it is interrupted; returns the exit code of the process.

    SIGINT and SIGTERM end it with 0 and without a traceback, also while it loads a model; the
    context is still valid when the node is destroyed, so that it can send a last command. A
    :class:`VlaPruneError` ends it with 1 and one line.

    :param make: the node needs a timer of its own: the loop checks for signals between callbacks.
    """
    asked = _listen_for_the_end()
    node = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not asked:
            executor.spin_once()
    except (_Ended, ExternalShutdownException):
        pass
    except VlaPruneError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except Exception:
        if not asked:  # else it is what an interrupted library makes of it
            raise
    finally:
        for number in (*_SIGNALS, signal.SIGALRM):  # nothing may interrupt the last words
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        else:  # half-made renderers would complain while they are freed
            sys.unraisablehook = lambda _: None
        rclpy.try_shutdown()
    return 0


def _listen_for_the_end() -> list[int]:
    """Install handlers, which add the numbers of the signals that come to the list."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)

    def insist(number: int, frame: Any) -> None:
        raise _Ended

    for number in _SIGNALS:
        signal.signal(number, ask)
    signal.signal(signal.SIGALRM, insist)
    return asked


@contextlib.contextmanager
def ros_context(watch: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """rclpy for a tool in a terminal: yields a function to be called some times a second, which
    raises KeyboardInterrupt where Ctrl-C was pressed, else calls ``watch``. A second Ctrl-C raises
    at once."""
    asked: list[int] = []

    def idle() -> None:
        if asked:
            raise KeyboardInterrupt
        watch()

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        yield idle
    finally:
        signal.signal(signal.SIGINT, before)
        rclpy.try_shutdown()


def steady_clock() -> Clock:
    """For timers that a paused ``/clock`` must not stop, such as a watchdog's."""
    return Clock(clock_type=ClockType.STEADY_TIME)


class Turns:
    """Calls ``turn`` from the node's executor, again after as many wall seconds as it returned."""

    def __init__(self, node: Node, turn: Callable[[], float]) -> None:
        self._turn = turn
        self._timer = node.create_timer(0.0, self.take, clock=steady_clock())

    def take(self) -> None:
        """A turn now, for who does not want to wait for the next one."""
        wait_s = self._turn()
        self._timer.timer_period_ns = round(1e9 * wait_s)
        self._timer.reset()


def on_clock_jump(node: Node, forget: Callable[[], None]) -> Any:
    """Call ``forget`` where ROS time goes back at all, or on by a second at once, as long as the
    node keeps what is returned."""
    return node.get_clock().create_jump_callback(
        JumpThreshold(min_forward=Duration(seconds=1), min_backward=Duration(nanoseconds=-1)),
        post_callback=lambda jump: forget(),
    )


def require_simulated_time(node: Node, stepping: str) -> bool:
    """Whether ``stepping`` is synchronous. :raises ProfileError: it is, on wall time."""
    synchronous = stepping == SYNCHRONOUS
    if synchronous and not node.get_parameter('use_sim_time').value:
        raise ProfileError(
            'parameter stepping is synchronous on wall time', 'set use_sim_time to true'
        )
    return synchronous
