"""A client node for tools and tests: calls services and waits for what other nodes say."""

import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from ..errors import VlaPruneError
from ..runtime.messages import status_values
from .interface import latched

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE

_ANSWER_S = 10.0
_REACHED = {
    CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
}


class Client(Node):
    """Spins itself while it waits; for one thread.

    :param idle: called about ten times a second while waiting, for progress and health checks.
    """

    def __init__(self, name: str, idle: Callable[[], None] = lambda: None) -> None:
        super().__init__(name)
        self._executor_ = SingleThreadedExecutor()
        self._executor_.add_node(self)
        self._idle = idle
        self._statuses: dict[str, DiagnosticStatus] = {}

    def watch(self, node: str) -> None:
        def keep(message: DiagnosticStatus) -> None:
            self._statuses[node] = message

        self.create_subscription(DiagnosticStatus, f'/{node}/status', keep, latched())

    def state(self, node: str) -> str:
        """State word of a watched node; empty before its first status."""
        return self.values(node).get('state', '')

    def message(self, node: str) -> str:
        """Reason, or state word, of a watched node; empty before its first status."""
        return self._statuses.get(node, DiagnosticStatus()).message

    def values(self, node: str) -> dict[str, str]:
        return status_values(self._statuses.get(node, DiagnosticStatus()))

    def status(self, node: str) -> DiagnosticStatus | None:
        return self._statuses.get(node)

    def spin_for(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Spin until ``done()`` or the time is over; returns ``done()``."""
        deadline, next_idle = time.monotonic() + timeout_s, 0.0
        while not (finished := done()) and time.monotonic() < deadline:
            self._executor_.spin_once(timeout_sec=0.05)
            if time.monotonic() >= next_idle:
                next_idle = time.monotonic() + 0.1
                self._idle()
        return finished or done()

    def call(
        self,
        kind: type,
        service: str,
        request: Any,
        timeout_s: float = 30.0,
        resend_s: float = 3.0,
    ) -> Any:
        """Call a service and return its response.

        A request can be lost, for the graph may still show a server that is gone: it is sent again
        until an answer comes, so it has to be one that may be repeated.

        :raises VlaPruneError: the service is not there or does not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        client = self.create_client(kind, service)
        try:
            if not self.wait(client.service_is_ready, timeout_s):
                raise VlaPruneError(f'service {service} is not there', 'check that its node runs')
            futures = []
            while time.monotonic() < deadline:
                futures.append(client.call_async(request))
                rest = min(resend_s, deadline - time.monotonic())
                self.wait(lambda: any(f.done() for f in futures), rest)
                for future in futures:
                    if future.done():
                        return future.result()
            raise VlaPruneError(
                f'service {service} did not answer in {timeout_s:g} s', 'see the log of its node'
            )
        finally:
            self.destroy_client(client)

    def trigger(self, service: str, timeout_s: float = 30.0) -> str:
        """The message of the answer. :raises VlaPruneError: it answers that it failed."""
        return _checked(service, self.call(Trigger, service, Trigger.Request(), timeout_s))

    def set_bool(self, service: str, value: bool) -> str:
        """As :meth:`trigger`."""
        return _checked(service, self.call(SetBool, service, SetBool.Request(data=value)))

    def change_state(self, node: str, transition: int, timeout_s: float = 120.0) -> bool:
        """Ask a lifecycle node for a transition; True where it succeeded. It cannot be repeated
        blindly: where no answer comes, the state tells whether request or answer was lost."""
        request = ChangeState.Request(transition=Transition(id=transition))
        deadline = time.monotonic() + timeout_s
        while (rest := deadline - time.monotonic()) > 0:
            try:
                wait_s = min(_ANSWER_S, rest)
                service = f'/{node}/change_state'
                return bool(self.call(ChangeState, service, request, wait_s, wait_s).success)
            except VlaPruneError:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    raise
            response = self.call(GetState, f'/{node}/get_state', GetState.Request(), rest)
            if response.current_state.id == _REACHED[transition]:
                return True
        raise VlaPruneError(f'/{node}/change_state did not answer', 'see the log of its node')

    def set_parameter(self, node: str, name: str, value: Any) -> str:
        """Set one parameter; returns why it was refused, or an empty string."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        result = self.call(SetParameters, f'/{node}/set_parameters', request).results[0]
        return '' if result.successful else result.reason


def _checked(service: str, response: Any) -> str:
    if not response.success:
        raise VlaPruneError(f'{service} answered: {response.message}', 'see the log of its node')
    return response.message
