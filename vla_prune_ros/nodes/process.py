"""How every node of this package runs and ends as a process, and how a tool talks to nodes.

A signal first only asks: an exception that strikes inside rclpy's C++ or a destructor comes out as
another error, or as none.

How simulated time goes on: the word that all three nodes share, and what it means for each.

``free``: the simulator steps on whatever the others do, as a robot would.

``synchronous``: time stands still until the command of its present instant is in, so an episode
follows from seed, policy and executor alone, not from the speed of the machine.

- ``simulator`` publishes the observation of T and steps when it has a twist and a gripper command
  that are stamped T. While it waits it repeats the observation.
- ``chunk_executor`` sends both for the step that is due at T, over and over until time goes on,
  and nothing where no step is due. Wall time ages no chunk, and disarming only pauses.
- ``vla_policy`` queries when the chunk before is used up, from messages of one stamp, of which
  none is lost, and looks back at the query before it answers.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ..errors import ProfileError, VlaPruneError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 0.5


class _Ended(BaseException):
    """Raised in the main thread where a callback blocks for long after the end was asked for."""


def run_node(make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin one node until it is interrupted; returns the exit code of the process.

    SIGINT and SIGTERM end it with 0 and without a traceback, also while it loads a model; the
    context is still valid when the node is destroyed, so that it can send a last command. A
    :class:`VlaPruneError` at construction ends it with 1 and one line.

    :param make: the node needs a timer of its own: the loop looks up between callbacks.
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
        rclpy.try_shutdown()
    return 0


def _listen_for_the_end() -> list[int]:
    """Install handlers; the list that is returned gets the numbers of the signals that came."""
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
    """rclpy for a tool in a terminal.

    Yields a function to be called some times a second: it raises KeyboardInterrupt where Ctrl-C
    was pressed, else it calls ``watch``. A second Ctrl-C raises at once.
    """
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


FREE = 'free'
SYNCHRONOUS = 'synchronous'
STEPPING = (FREE, SYNCHRONOUS)
"""Choices of the parameter ``stepping``."""


def require_simulated_time(node: Node, stepping: str) -> bool:
    """Whether ``stepping`` is synchronous.

    :raises ProfileError: it is, on wall time, which waits for nobody.
    """
    if stepping != SYNCHRONOUS:
        return False
    if not node.get_parameter('use_sim_time').value:
        raise ProfileError(
            'parameter stepping is synchronous on wall time', 'set use_sim_time to true'
        )
    return True
