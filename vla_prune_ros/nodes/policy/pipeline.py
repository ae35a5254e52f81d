"""What exists between configure and cleanup: session, worker thread, inputs and outputs."""

import time
from typing import Any, NamedTuple

from rclpy.lifecycle import LifecycleNode

from ...errors import ActionRefused, CheckpointError, InputRefused
from ...records import ActionChunk
from ...runtime.pairing import NotReady
from ...runtime.params import PolicyParams
from ...runtime.session import InferenceRequest, InferenceResult, PartialFrame, PolicySession
from ...runtime.worker import InferenceWorker, Proceed
from ..interface import rivals
from ..process import require_simulated_time
from ..status import ERROR, OK, WARN, StatusReporter
from .inputs import MESSAGE_READER, DescribedMotion, Inputs, motion_input
from .outputs import Outputs

DIAGNOSTICS = {
    'inputs': ('<stream>_rate_hz', '<stream>_received', 'lost_<reason>'),
    'inference': ('chunks', 'faults_in_a_row', 'busy_s', 'replaced_jobs', 'discarded_jobs'),
    'pruning': (
        *('method', 'motion_source', 'mode', 'reason', 'motion', 'motion_why'),
        *('visual_tokens', 'refresh_ms'),
    ),
    'safety': ('other_chunk_publishers',),
}
"""Concern -> keys in ``/diagnostics``; counters appear with their first count."""


class Problem(NamedTuple):
    """Why the last request gave no usable chunk; the code stays the same while numbers change."""

    code: str
    text: str


_NONE = Problem('', '')
_PARTNERS_COME = ('nothing_new', 'skew')  # a pair lacks nothing but time


def load(params: PolicyParams, status: StatusReporter) -> Any:
    """The policy, warmed up and checked. :raises VlaPruneError: something is not usable."""
    import torch  # slow to import: only a node that loads a policy pays

    from ...engine.load import load_policy
    from ...engine.self_check import require_sound

    profile = params.load_profile()
    if params.threads:
        torch.set_num_threads(params.threads)
    policy = load_policy(
        params.checkpoint,
        profile,
        params.pruning,
        device=params.device,
        dtype=params.dtype,
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
    return policy


def lateness(chunk: ActionChunk, now_ns: int) -> str:
    """Why the executor will drop all of a chunk; empty if a step is still to come."""
    age_s, lasts_s = 1e-9 * (now_ns - chunk.stamp_ns), len(chunk) * chunk.dt_s
    if age_s < lasts_s:
        return ''
    return (
        f'a chunk is out {age_s:.2f} s after its image and lasts {lasts_s:.2f} s: no step of it '
        'is left to execute; use a faster device, more pruning or a smaller dtype'
    )


class Pipeline:
    """From messages to published chunks, with the faults that happen on the way.

    The executor thread owns it. ``_infer``, ``_on_result``, ``_on_error`` and ``_refresh`` run in
    the worker thread and only assign plain values that the other reads.

    :raises VlaPruneError: the checkpoint, the profile or a parameter is not usable.
    """

    def __init__(self, node: LifecycleNode, params: PolicyParams, status: StatusReporter) -> None:
        self._node, self._params = node, params
        require_simulated_time(node, params.stepping)
        policy = load(params, status)
        self.about = policy.describe()
        self.wanted = False
        self.chunks = self.faults = 0
        self.latched = ''
        self.problem = _NONE
        self._refresh_failed = False
        self._wait: NotReady | None = None
        self._pruned: dict[str, Any] = {}  # what the last request tells of its pruning
        self._motion = motion_input(node, params)
        self.session = PolicySession(policy, params, MESSAGE_READER, motion=self._motion)
        self.worker = InferenceWorker(
            self._infer,
            self._on_result,
            self._on_error,
            spare=None if params.synchronous else self._refresh,
            ahead=self.session.prefetch,
        )
        self.outputs = Outputs(node, policy.profile, policy.untrained)
        self.inputs = Inputs(
            node,
            self.session,
            params.image_transport,
            on_image=self._on_image,
            on_jump=self._discard,
            on_refused=self._on_refused,
        )

    def close(self) -> None:
        """Take all topics down and end the worker; a job that hangs on a device is left behind."""
        self.wanted = False
        self.inputs.destroy()
        if isinstance(self._motion, DescribedMotion):
            self._motion.destroy()
        if not self.worker.close(2.0):
            self._node.get_logger().error(
                'the inference that runs does not end; its thread is left behind'
            )
        self.outputs.destroy()

    def instruct(self, cleaned: str) -> None:
        if self.session.instruct(cleaned):
            self.inputs.clear()
            self._discard()

    def forget(self, reason: str) -> None:
        """Time jumped or the node's state changed: start afresh."""
        self.session.reset(reason)
        self.inputs.clear()
        self._discard()

    def _discard(self) -> None:
        # The session's epoch has grown, so the next request finds an empty memory. Behind this
        # call no chunk or report of before comes any more.
        self.worker.invalidate()
        self._pruned = {}

    def clear_faults(self) -> None:
        self.faults, self.latched, self.problem = 0, '', _NONE
        self._refresh_failed = False

    def trouble(self) -> tuple[str, str, bytes, str]:
        """State word, reason, level and code of what the pipeline does right now."""
        timeout_s = self._params.inference_timeout_s
        if self.latched:
            return 'FAULT', self.latched, ERROR, ''
        if self.worker.busy_s() > timeout_s:
            text = f'an inference runs longer than {timeout_s} s; check the device'
            return 'TIMEOUT', text, ERROR, ''
        if not self.wanted:
            return 'STOPPED', '', OK, ''
        if not self.session.instruction:
            text = 'no instruction yet; publish ~/instruction or set the parameter'
            return 'WAITING', text, WARN, ''
        wait = self.inputs.why(self._wait)
        if wait is not None:
            # Its numbers change all the time; its words tell an old stamp from a silent driver.
            return 'WAITING', wait.detail, WARN, ''.join(filter(str.isalpha, wait.detail))
        code, text = self.problem
        if code == 'late':
            return 'LATE', text, WARN, code
        return ('REFUSED', text, WARN, code) if code else ('RUNNING', '', OK, '')

    def diagnoses(self, level: bytes, state: str) -> dict[str, tuple[bytes, str, dict[str, Any]]]:
        """The pipeline's part of ``/diagnostics``: concern -> level, text, values."""
        others, stop_them = rivals(self._node, self.outputs.chunk)
        losses = {f'lost_{k}': v for k, v in self.session.pairing.losses.items()}
        inference = {
            'chunks': self.chunks,
            'faults_in_a_row': self.faults,
            'busy_s': self.worker.busy_s(),
            'replaced_jobs': self.worker.replaced,
            'discarded_jobs': self.worker.discarded,
        }
        pruned, params = self._pruned, self._params
        pruning = {'method': params.pruning, 'motion_source': params.motion_source, **pruned}
        unknown = ''
        if pruned.get('motion') == 'unknown':
            unknown = f'motion of the end effector is unknown: {pruned["motion_why"]}'
        return {
            'inputs': (level, state, {**self.inputs.counts(), **losses}),
            'inference': (
                ERROR if self.latched else OK,
                self.latched or self.problem.text or 'ok',
                inference,
            ),
            'pruning': (WARN if unknown else OK, unknown or params.pruning, pruning),
            'safety': (
                ERROR if stop_them else OK,
                stop_them or 'ok',
                {'other_chunk_publishers': others},
            ),
        }

    def _on_image(self, camera: str, message: Any) -> None:
        """Show an image to the pruner, and ask for a chunk if it completes a pair."""
        if not (self.wanted and self.session.instruction) or self.latched:
            return
        self.session.watch(camera, message)
        request = self.session.next_request(self.inputs.now())
        if isinstance(request, InferenceRequest):
            self._wait = None
            self.worker.submit((request, time.monotonic_ns()))
            return
        self._wait = request
        stamp_ns = MESSAGE_READER.stamp_ns(message)
        due = not self._params.synchronous and self.session.is_due(stamp_ns)
        if due and request.reason in _PARTNERS_COME:
            self.worker.offer(PartialFrame(camera, message, self.session.instruction))

    def _infer(self, job: tuple[InferenceRequest, int]) -> InferenceResult:
        request, submitted_ns = job
        result = self.session.infer(request, 1e-9 * (time.monotonic_ns() - submitted_ns))
        if result.refusal is not None:
            raise result.refusal
        if self._params.synchronous:  # time waits: the refresh is never cut short
            self._refresh(lambda: True)
        return result

    def _refresh(self, proceed: Proceed) -> None:
        """Between a chunk and the next request; a failure counts until a later one succeeds."""
        try:
            self.session.refresh(proceed)
            self._refresh_failed = False
        except Exception as error:
            self._refresh_failed = True
            self._fault(error, 'refresh after the chunk: ')

    def _on_result(self, result: InferenceResult) -> None:
        self.session.published(result.request, result.chunk)
        self.outputs.publish(result)
        self.chunks += 1
        self._pruned = _pruned(result)
        if not self._refresh_failed:
            late = lateness(result.chunk, self._node.get_clock().now().nanoseconds)
            self.faults, self.problem = 0, Problem('late', late) if late else _NONE
        for camera, count in result.frozen.items():
            self._node.get_logger().warning(
                f'camera {camera!r} repeats the same frame, {count + 1} times now; '
                'check its driver',
                throttle_duration_sec=5.0,
            )

    def _on_error(self, error: BaseException) -> None:
        if isinstance(error, InputRefused):
            self.session.pairing.losses[error.reason] += 1
            self._on_refused(error)
            return
        self._fault(error)

    def _fault(self, error: BaseException, where: str = '') -> None:
        self.faults += 1
        code = error.reason if isinstance(error, ActionRefused) else type(error).__name__
        self.problem = Problem(code, f'{where}{code}: {(str(error).splitlines() or [""])[0]}')
        if self.faults >= self._params.max_faults and not self.latched:
            self.latched = (
                f'{self.faults} failed inferences in a row, last {self.problem.text}; call ~/reset'
            )

    def _on_refused(self, refusal: InputRefused) -> None:
        self.problem = Problem(refusal.reason, str(refusal))


def _pruned(result: InferenceResult) -> dict[str, Any]:
    """What the diagnostics show of the last request's pruning. ``motion`` is what the pruner says:
    a method that does not ask for the motion does not lack it either."""
    record = result.record
    out = {
        'mode': record.mode,
        'reason': record.reason,
        'motion': record.pruning.get('motion', 'not used'),
        'motion_why': result.request.motion_why,
        'visual_tokens': record.visual_tokens,
    }
    return out if record.refresh_ms is None else {**out, 'refresh_ms': record.refresh_ms}
