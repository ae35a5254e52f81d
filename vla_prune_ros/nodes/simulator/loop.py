"""The simulator's main thread: it owns the scene and its time, steps, and publishes.

An OpenGL context cannot change threads: whoever wants something of the scene asks for it here.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.node import Node

from ...errors import VlaPruneError
from ...runtime.schedule import SYNCHRONOUS
from ...sim.scene import Scene
from ...sim.session import GAP_NS, START_NS, Lockstep, Pacer, Session
from .outputs import SimulatorOutputs
from .params import SimulatorParams

_LONGEST_NAP_S = 0.05  # SIGTERM ends the context without waking the main thread
_REPEAT_EVERY_S = 0.25  # below the age at which the policy calls an input stale


@dataclass
class Request:
    """Something that only the main thread may do; ``failed`` says why it did not."""

    act: Callable[[], str]
    done: threading.Event = field(default_factory=threading.Event)
    reply: str = ''
    failed: str = ''


class SimulatorLoop:
    """One session on the clock, from scene to scene.

    ``session``, ``lockstep`` and ``paused`` are read or set by callbacks; all else belongs to the
    main thread.

    :param make_scene: opens what the parameters name.
    """

    def __init__(
        self,
        node: Node,
        parameters: SimulatorParams,
        make_scene: Callable[[SimulatorParams], Scene],
    ) -> None:
        self._node, self.parameters, self._make_scene = node, parameters, make_scene
        synchronous = parameters.stepping == SYNCHRONOUS
        self.lockstep = Lockstep() if synchronous else None
        self.session: Session | None = None
        self.paused = False
        self._outputs = SimulatorOutputs(node, synchronous)
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._published_at = self._repeated_at = 0.0
        self._warned = False

    def open(self, parameters: SimulatorParams) -> None:
        """Replace the scene; the one before lives on where this one cannot start.

        :raises VlaPruneError: it cannot.
        """
        scene, before = self._make_scene(parameters), self.session
        start_ns = START_NS if before is None else before.now_ns + GAP_NS
        seed = self._node.get_parameter('seed').value
        self.session = Session(scene, seed, parameters.command_timeout_s, start_ns)
        if before is not None:
            before.scene.close()
        self.parameters = parameters
        self._pacer = Pacer(self.session.period_ns / 1e9, parameters.real_time_factor)
        self._outputs.advertise_images(scene.cameras)
        log = self._node.get_logger()
        log.info(f'{scene.description}; episode 0: {scene.instruction}')
        if scene.generated_assets:
            log.warning(
                'the scene is made of generated shapes in place of files that are missing: its '
                "results are not that simulator's"
            )

    def begin(self) -> None:
        """Publish the first observation of an episode."""
        self._outputs.instruct(self._live().scene.instruction)
        self._publish()
        self._pacer.restart()

    def reopen(self, parameters: SimulatorParams) -> str:
        """Open another scene and publish it; returns its task.

        :raises VlaPruneError: as :meth:`open`.
        """
        self.open(parameters)
        self.begin()
        return self._live().scene.instruction

    def next_episode(self) -> str:
        """Reset to the next seed; returns a line about the episode.

        In synchronous stepping time jumps ahead, so that policy and executor forget the episode
        before of their own accord: nothing is left to the moment at which somebody tells them.

        :raises VlaPruneError: no scene is open.
        """
        session = self._live()
        session.next_episode(GAP_NS if self.lockstep else 0)
        self.begin()
        reply = f'episode {session.episode} seed {session.seed} {session.scene.instruction}'
        self._node.get_logger().info(reply)
        return reply

    def ask(self, act: Callable[[], str]) -> Request:
        """Have the main thread do something, and wait for it; for callbacks."""
        request = Request(act)
        self._requests.put(request)
        while self._node.context.ok() and not request.done.wait(0.1):
            pass
        return request

    def once(self) -> None:
        """One turn: serve a request, wait a little, or make a step."""
        if not self._requests.empty():
            self._serve(self._requests.get())
        elif self.session is None:
            time.sleep(_LONGEST_NAP_S)
        elif self.paused:
            time.sleep(_LONGEST_NAP_S)
            self._pacer.restart()
        elif (wait := self._pacer.wait_s()) > 0.0:
            time.sleep(min(wait, _LONGEST_NAP_S))
        elif self.lockstep is None or self.lockstep.wait(_LONGEST_NAP_S):
            self.session.advance()
            self._pacer.stepped()
            self._publish()
        else:
            self._stand_still()

    def close(self) -> None:
        """Free the scene, in the thread that made it."""
        if self.session is not None:
            self.session.scene.close()

    def _live(self) -> Session:
        if self.session is None:
            raise VlaPruneError('there is no scene', 'set the parameters simulator and tasks')
        return self.session

    def _serve(self, request: Request) -> None:
        try:
            request.reply = request.act()
        except VlaPruneError as error:
            request.failed = str(error)
        request.done.set()

    def _publish(self) -> None:
        session = self._live()
        if self.lockstep is not None:
            self.lockstep.expect(session.now_ns)
        # Where time waits for the policy it may ask for the picture of any instant.
        due = self.lockstep is not None or session.due(self.parameters.image_hz)
        images = session.scene.images if due else None
        self._outputs.observe(session.now_ns, session.state, images)
        self._report(session)
        self._published_at = self._repeated_at = time.monotonic()
        self._warned = False
        if self.lockstep is None:
            self._warn_if_slow(session)

    def _report(self, session: Session, waits_for: str = '') -> None:
        values = {
            **session.report(),
            'simulator': self.parameters.simulator,
            'stepping': self.parameters.stepping,
            'real_time_factor': self._pacer.measured(),
        }
        self._outputs.report(session.now_ns, values, session.scene.success(), waits_for)

    def _stand_still(self) -> None:
        """Repeat what was published, and say once what is missing."""
        now = time.monotonic()
        if now - self._repeated_at < _REPEAT_EVERY_S:
            return
        self._repeated_at = now
        late = now - self._published_at > self.parameters.step_timeout_s
        missing = self._missing() if late else ''
        if missing and not self._warned:
            self._warned = True
            self._node.get_logger().warning(missing)
        self._outputs.repeat()
        self._report(self._live(), missing)

    def _missing(self) -> str:
        parts = self.lockstep.missing
        topics = [self._node.resolve_topic_name(f'~/{part}') for part in parts]
        publishers = [f'{self._node.count_publishers(t)} publishers of {t}' for t in topics]
        return (
            f'no {" and ".join(parts)} stamped {1e-9 * self._live().now_ns:.3f} s came within '
            f'{self.parameters.step_timeout_s:g} s ({", ".join(publishers)}); simulated time '
            'stands still; check that vla_policy runs and that chunk_executor is armed, both with '
            'stepping synchronous'
        )

    def _warn_if_slow(self, session: Session) -> None:
        asked, measured = self.parameters.real_time_factor, self._pacer.measured()
        if session.step >= 40 and measured < 0.9 * asked:
            self._node.get_logger().warning(
                f'simulation runs at {measured:.2f} of real time, {asked:.2f} is asked; lower '
                'image_hz, image_size or real_time_factor',
                throttle_duration_sec=30.0,
            )
