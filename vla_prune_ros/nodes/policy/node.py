"""``vla_policy``: cameras and robot state in, checked action chunks out.

A lifecycle node. ``configure`` loads the checkpoint and warms it up, ``activate`` lets chunks out.
Callbacks only store messages; one worker thread infers, always on the newest pair. It proposes
motion and never executes it: that is ``chunk_executor``, in a process of its own.
"""

import sys
import traceback
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from ...errors import InputRefused, VlaPruneError
from ...runtime.params import PolicyParams
from ...runtime.session import clean_instruction
from ..interface import Service
from ..params import declare, read
from ..process import on_clock_jump, run_node, steady_clock
from ..status import ERROR, StatusReporter
from .inputs import INSTRUCTION
from .pipeline import Pipeline

START = Service('~/start', Trigger, 'Infer; needed only with `start_on_activate` false.')
STOP = Service('~/stop', Trigger, 'Stop inferring; the model stays loaded.')
RESET = Service('~/reset', Trigger, 'Forget buffers, pruning memory and a latched fault.')
STATES = {
    'UNCONFIGURED': ('OK or ERROR', 'No model. With ERROR: why `configure` failed.'),
    'LOADING': ('OK', 'Reading the checkpoint, then one query to warm up.'),
    'INACTIVE': ('OK', 'Loaded; no chunk leaves before `activate`.'),
    'WAITING': ('WARN', 'An input is missing or stale, or there is no instruction.'),
    'RUNNING': ('OK', 'Chunks go out.'),
    'LATE': ('WARN', 'Chunks come out after their last step was due.'),
    'REFUSED': ('WARN', 'The last message, query or chunk was not usable; it tries on.'),
    'STOPPED': ('OK', '`~/stop` was called, or `~/start` not yet.'),
    'TIMEOUT': ('ERROR', 'A query runs longer than `inference_timeout_s`.'),
    'FAULT': ('ERROR', '`max_faults` failures in a row; only `~/reset` ends it.'),
    'FINALIZED': ('OK', 'Shut down.'),
}

_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__('vla_policy', **kwargs)
        self._params = declare(self, PolicyParams, configures=True)
        self._status = StatusReporter(self, STATES)
        self._pipeline: Pipeline | None = None
        self._active = False
        self._instruction = ''
        self.add_on_set_parameters_callback(self._on_parameters)
        INSTRUCTION.subscription(self, lambda message: self._instruct(message.data))
        START.serve(self, self._start)
        STOP.serve(self, self._stop)
        RESET.serve(self, self._reset)
        steady = steady_clock()  # a paused /clock must not silence the watch
        self.create_timer(0.1, self._watch, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)
        self._jump = on_clock_jump(self, lambda: self._forget('clock_jump'))
        self._status.set('UNCONFIGURED')
        if self._params.instruction:
            self._instruct(self._params.instruction)
        if self._params.autostart:
            self._autostart = self.create_timer(0.0, self._bring_up, clock=steady)

    def _bring_up(self) -> None:
        self._autostart.cancel()
        if self.trigger_configure() == _SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._status.set('LOADING')
        try:
            self._params = read(self, PolicyParams)
            self._pipeline = Pipeline(self, self._params, self._status)
        except VlaPruneError as error:
            self._status.set('UNCONFIGURED', str(error), ERROR)
            return _FAILURE
        except (RuntimeError, MemoryError) as error:  # out of memory, a device that fails
            return self._not_loaded(error, 'choose a smaller dtype or another device')
        except Exception as error:  # rclpy would swallow it, and the status would say LOADING
            self.get_logger().debug(traceback.format_exc())
            return self._not_loaded(error, 'check the files of the checkpoint')
        self._pipeline.session.instruction = self._instruction
        self._status.set('INACTIVE', **self._about())
        return _SUCCESS

    def _not_loaded(self, error: Exception, remedy: str) -> TransitionCallbackReturn:
        line = (str(error).splitlines() or [''])[0]
        text = f'loading failed: {type(error).__name__}: {line}; {remedy}'
        self._status.set('UNCONFIGURED', text, ERROR)
        return _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._forget('activated')
        result = super().on_activate(state)
        self._active, self._pipeline.wanted = True, self._params.start_on_activate
        self._watch()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = self._pipeline.wanted = False
        self._forget('deactivated')
        self._status.set('INACTIVE', **self._about())
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._status.set('UNCONFIGURED')
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._status.set('FINALIZED')
        return _SUCCESS

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _release(self) -> None:
        self._active = False
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _forget(self, reason: str) -> None:
        if self._pipeline is not None:
            self._pipeline.forget(reason)

    def _instruct(self, text: str) -> str:
        """Take an instruction; returns why not, or an empty string."""
        try:
            cleaned = clean_instruction(text)
        except InputRefused as refusal:
            self.get_logger().warning(f'instruction refused: {refusal}', throttle_duration_sec=1.0)
            return str(refusal)
        if cleaned != self._instruction:
            self._instruction = cleaned
            if self._pipeline is not None:
                self._pipeline.instruct(cleaned)
        return ''

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for p in parameters:
            record = PolicyParams.__dataclass_fields__.get(p.name)
            if record is not None and not record.metadata['live'] and self._pipeline is not None:
                return SetParametersResult(
                    successful=False,
                    reason=f'{p.name} is read when the node configures; clean it up first',
                )
        refused = [  # an empty one names no task at start, and is refused later
            self._instruct(p.value)
            for p in parameters
            if p.name == 'instruction' and (p.value or self._instruction)
        ]
        return SetParametersResult(successful=not any(refused), reason=''.join(refused))

    def _start(self, request: Trigger.Request) -> tuple[bool, str]:
        if not self._active:
            return False, 'not active; activate the node first'
        self._pipeline.wanted = True
        self._watch()
        return True, 'started'

    def _stop(self, request: Trigger.Request) -> tuple[bool, str]:
        if self._pipeline is not None:
            self._pipeline.wanted = False
        self._forget('stopped')
        self._watch()
        return True, 'stopped'

    def _reset(self, request: Trigger.Request) -> tuple[bool, str]:
        if self._pipeline is not None:
            self._pipeline.clear_faults()
        self._forget('reset')
        self._watch()
        return True, 'forgot buffers, pruning memory and faults'

    def _about(self) -> dict[str, Any]:
        about = {} if self._pipeline is None else self._pipeline.about
        return {**about, 'instruction': self._instruction}

    def _watch(self) -> None:
        """Say what the node does, ten times a second; publishes only where that changed."""
        if self._active:
            state, reason, level, code = self._pipeline.trouble()
            self._status.set(state, reason, level, code, **self._about())

    def _diagnose(self) -> None:
        level, state = self._status.level, self._status.state
        if self._pipeline is None:
            self._status.diagnose('', {'state': (level, state, {})})
        else:
            self._status.diagnose(self._params.checkpoint, self._pipeline.diagnoses(level, state))


def main(args: list[str] | None = None) -> int:
    return run_node(PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
