"""What exists between configure and cleanup: inputs, worker, policy and outputs as one thing."""

import time
from typing import Any, NamedTuple

from rclpy.lifecycle import LifecycleNode

from ...errors import ActionRefused, CheckpointError, InputRefused
from ...runtime.messages import to_ns
from ...runtime.pairing import Wait
from ...runtime.worker import InferenceWorker, Proceed
from ..process import require_simulated_time
from ..status import ERROR, OK, WARN, StatusReporter
from .inputs import Inputs
from .outputs import UNKNOWN, Outputs, pruning_values
from .params import PolicyParams, check_profile
from .query import Answer, Job, Part, QueryRunner, lateness


class Problem(NamedTuple):
    """Why the last query gave no usable chunk; the code stays the same while numbers change."""

    code: str
    text: str


_NONE = Problem('', '')
_PARTNERS_COME = ('nothing_new', 'skew')  # a pair lacks nothing but time


class Pipeline:
    """From stored messages to published chunks, with the faults that happen on the way.

    The executor's thread owns it; ``_run``, ``_on_answer`` and ``_on_error`` run in the worker
    thread and only assign plain values that the other reads.

    :raises VlaPruneError: the checkpoint, the profile or a parameter is not usable.
    """

    def __init__(self, node: LifecycleNode, params: PolicyParams, status: StatusReporter) -> None:
        import torch  # slow to import: only a node that loads a policy pays

        from ...engine.load import load_policy
        from ...engine.self_check import require_sound

        self._node, self._params = node, params
        profile = check_profile(params)
        self._synchronous = require_simulated_time(node, params.stepping)
        if params.threads:
            torch.set_num_threads(params.threads)
        policy = load_policy(
            params.checkpoint,
            profile,
            params.pruning,
            params.device,
            params.dtype,
            unnorm_key=params.unnorm_key or None,
            tokenizer=params.tokenizer or None,
            head=params.head,
            diffusion_steps=params.diffusion_steps,
            fast_images=params.fast_images,
            progress=lambda text: status.set('LOADING', text),
            engine=params.engine,
        )
        if policy.profile.proprio_dim != profile.proprio_dim:  # on a robot nothing is guessed
            raise CheckpointError(
                f'{params.checkpoint} has no proprio_projector--N_checkpoint.pt, profile '
                f'{profile.name!r} has a state of {profile.proprio_dim} numbers',
                'finish the download, or use a .yaml profile with proprio_dim: 0 and '
                'proprio_kind: none',
            )
        status.set('LOADING', 'warming up')
        dry = policy.warm_up(instruction=params.instruction or 'warm up')
        require_sound(policy, dry)
        self.about = policy.describe()
        self.wanted = False
        self.instruction = ''
        self.answers = self.faults = 0
        self.latched = ''
        self.problem = _NONE
        self._refresh_ms: float | None = None
        self._refresh_failed = False
        self._pruned: dict[str, Any] = {}  # what the last query says of its pruning
        self._epoch = self._policy_epoch = 0  # grows with everything that must be forgotten
        self._last_query = (0, 0)  # epoch and image stamp
        chunk_s = profile.chunk * profile.control_period_s
        self._period_ns = round(1e9 * (chunk_s if self._synchronous else params.replan_period_s))
        self._runner = QueryRunner(policy, params)
        self.inputs = Inputs(
            node, params, profile, self._on_image, self._start_afresh, self._on_refused
        )
        self.outputs = Outputs(node, profile, policy.untrained)
        self.worker = InferenceWorker(
            self._run,
            self._on_answer,
            self._on_error,
            spare=None if self._synchronous else self._refresh,
            ahead=self._runner.look_ahead,
        )

    def close(self) -> None:
        """Take all topics down and end the worker; a job that hangs on a device is left behind."""
        self.wanted = False
        self.inputs.destroy()
        if not self.worker.close(2.0):
            self._node.get_logger().error(
                'the inference that runs does not end; its thread is left behind'
            )
        self.outputs.destroy()

    def forget(self, reason: str) -> None:
        """Time jumped or the task changed: nothing from before may reach robot or pruner."""
        self.inputs.clear(reason)
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Discard the running query, and let the next one find an empty memory."""
        self._epoch += 1
        self.worker.invalidate()  # behind it no chunk or report of before comes any more
        self.inputs.motion.reset()
        self._pruned = {}

    def clear_faults(self) -> None:
        """Forget problems and a latched fault."""
        self.faults, self.latched, self.problem = 0, '', _NONE
        self._refresh_failed = False

    def trouble(self) -> tuple[str, str, bytes, str]:
        """State word, reason, level and code of what the pipeline does right now."""
        busy = self.worker.busy_s()
        wait = self.inputs.why()
        if self.latched:
            return 'FAULT', self.latched, ERROR, ''
        if busy > self._params.inference_timeout_s:
            return (
                'TIMEOUT',
                f'an inference runs longer than {self._params.inference_timeout_s} s; check '
                'the device',
                ERROR,
                '',
            )
        if not self.wanted:
            return 'STOPPED', '', OK, ''
        if not self.instruction:
            return (
                'WAITING',
                'no instruction yet; publish ~/instruction or set the parameter',
                WARN,
                '',
            )
        if wait is not None:
            return 'WAITING', wait.detail, WARN, wait.reason
        code, text = self.problem
        if code == 'late':
            return 'LATE', text, WARN, code
        return ('REFUSED', text, WARN, code) if code else ('RUNNING', '', OK, '')

    def diagnoses(self, level: bytes, state: str) -> dict[str, tuple[bytes, str, dict[str, Any]]]:
        """The pipeline's share of ``/diagnostics``: concern -> level, text, values."""
        counts = self.inputs.counts()
        topic = self.outputs.chunk.topic_name
        others = self._node.count_publishers(topic) - 1
        inputs = {
            **{f'{k}_rate_hz': v.rate_hz for k, v in counts.items()},
            **{f'{k}_received': v.received for k, v in counts.items()},
            **{f'lost_{k}': v for k, v in self.inputs.pairing.losses.items()},
        }
        inference = {
            'chunks': self.answers,
            'faults_in_a_row': self.faults,
            'busy_s': self.worker.busy_s(),
            'replaced_jobs': self.worker.replaced,
            'discarded_jobs': self.worker.discarded,
        }
        return {
            'inputs': (level, state, inputs),
            'inference': (
                ERROR if self.latched else OK,
                self.latched or self.problem.text or 'ok',
                inference,
            ),
            'pruning': self._diagnose_pruning(),
            'safety': (
                ERROR if others else OK,
                f'{others} other publishers of {topic}; stop them' if others else 'ok',
                {'other_chunk_publishers': others},
            ),
        }

    def _diagnose_pruning(self) -> tuple[bytes, str, dict[str, Any]]:
        pruned, params = self._pruned, self._params
        values = {'method': params.pruning, 'motion_source': params.motion_source, **pruned}
        if pruned.get('motion') != UNKNOWN:
            return OK, params.pruning, values
        return WARN, f'motion of the end effector is unknown: {pruned["motion_why"]}', values

    def _on_image(self, camera: str, message: Any) -> None:
        """A good image arrived: show it to the pruner, and ask for a chunk where it completes a
        pair."""
        if not (self.wanted and self.instruction) or self.latched:
            return
        # The worker sets the policy's epoch once it has forgotten the episode before. Frames shown
        # until then would be forgotten with it, or be compared with its own.
        if self._policy_epoch == self._epoch and not self._repeated(message):
            self._runner.watch(camera, message)
        wait = self._query()
        due = not self._synchronous and self._due(to_ns(message.header.stamp))
        if due and wait in _PARTNERS_COME:
            self.worker.offer(Part(camera, message, self.instruction))

    def _repeated(self, message: Any) -> bool:
        """A simulator that waits for this very query shows its frame again."""
        return self._synchronous and to_ns(message.header.stamp) <= self._last_query[1]

    def _due(self, stamp_ns: int) -> bool:
        """Whether it is time for a query whose newest image has this stamp."""
        epoch, last_ns = self._last_query
        return epoch != self._epoch or stamp_ns - last_ns >= self._period_ns

    def _query(self) -> str:
        """Hand the newest pair to the worker where it is time; returns why there is no pair."""
        begin = time.perf_counter()
        pair = self.inputs.take()
        if isinstance(pair, Wait):
            return pair.reason
        if not self._due(pair.stamp_ns):
            return ''
        motion, why = self.inputs.motion.at(pair.stamp_ns)
        spent_ms = 1e3 * (time.perf_counter() - begin)
        self.worker.submit(
            Job(
                pair,
                self.instruction,
                motion,
                time.monotonic_ns(),
                spent_ms,
                self._epoch,
                why,
            )
        )
        return ''

    def _run(self, job: Job) -> Answer:
        if job.epoch != self._policy_epoch:  # here: only the worker may touch the policy
            self._runner.reset()
            self._refresh_ms = None
        # The query before the epoch: frames are shown from then on, and its own is not one.
        self._last_query = (job.epoch, job.pair.stamp_ns)
        self._policy_epoch = job.epoch
        refresh_ms, self._refresh_ms = self._refresh_ms, None
        answer = self._runner.run(job, refresh_ms)
        if self._synchronous:  # time waits: the look back is never cut short
            self._refresh(lambda: True)
        return answer

    def _refresh(self, proceed: Proceed) -> None:
        """Between a chunk and the next job; a failure counts until a later one succeeds."""
        try:
            self._refresh_ms = self._runner.policy.refresh(proceed)
            self._refresh_failed = False
        except Exception as error:
            self._refresh_failed = True
            self._fault(error, 'refresh after the chunk: ')

    def _on_answer(self, answer: Answer) -> None:
        self.inputs.motion.published(answer.chunk)
        self.outputs.publish(answer)
        self.answers += 1
        self._pruned = pruning_values(answer)
        if not self._refresh_failed:
            late = lateness(answer.chunk, self._node.get_clock().now().nanoseconds)
            self.faults, self.problem = 0, Problem('late', late) if late else _NONE
        for camera, count in answer.frozen.items():
            self._node.get_logger().warning(
                f'camera {camera!r} repeats the same frame, {count + 1} times now; '
                'check its driver',
                throttle_duration_sec=5.0,
            )

    def _on_error(self, error: BaseException) -> None:
        if isinstance(error, InputRefused):
            self.inputs.pairing.losses[error.reason] += 1
            self._on_refused(error)
            return
        self._fault(error)

    def _fault(self, error: BaseException, where: str = '') -> None:
        self.faults += 1
        code = error.reason if isinstance(error, ActionRefused) else type(error).__name__
        self.problem = Problem(code, f'{where}{code}: {(str(error).splitlines() or [""])[0]}')
        if self.faults >= self._params.max_faults:
            self.latched = (
                f'{self.faults} failed inferences in a row, last {self.problem.text}; call ~/reset'
            )

    def _on_refused(self, refusal: InputRefused) -> None:
        self.problem = Problem(refusal.reason, str(refusal))
