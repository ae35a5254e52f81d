"""What the pruning benchmark shows the policy: a scene that moves fast and slowly in turn.

Frames are drawn, not photographed: the time of a method depends on how much of the picture
changes and not on what it shows. The first camera stands still and sees a block move; the others
ride on the arm and see everything move. Every frame has sensor noise of its own, so that no two
are equal and a comparison of frames has something to be robust against.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from ..profiles import Profile
from ..records import MotionHint, Observation

INSTRUCTION = 'pick up the red cube and place it in the box'
SIDE = 256
NOISE_LEVELS = 3.0
PHASE_QUERIES = 2
# Far from the thresholds that coarse and fine modes have, on both sides; fast rises as well.
FAST = MotionHint(linear_m_s=0.6, angular_rad_s=0.5, vertical_m_s=0.25, source='script')
SLOW = MotionHint(linear_m_s=0.04, angular_rad_s=0.1, vertical_m_s=-0.02, source='script')
_PIXELS_PER_M = 200.0
_BLOCK = 40
_BLOCK_COLOUR = (200, 40, 30)
_CELLS = 20  # of the background: blurred squares
_START_NS = 1_000_000_000


class BenchScene:
    """The frames, motions and stamps of one episode, the same every time.

    The robot executes each chunk to its end: query ``q`` sees control step ``q * chunk``. It moves
    as in ``FAST`` for two queries, as in ``SLOW`` for two, and so on: a slow minute of the machine
    then falls on both.

    :param queries: queries of the episode.
    :param noise_levels: standard deviation of the sensor noise, in levels of 0 ... 255.
    """

    def __init__(
        self, profile: Profile, queries: int, seed: int = 0, noise_levels: float = NOISE_LEVELS
    ) -> None:
        self.queries = queries
        self._profile, self._seed, self._noise_levels = profile, seed, noise_levels
        steps = np.arange(queries * profile.chunk + 1) // profile.chunk
        speeds = [self.motion(q).linear_m_s for q in steps]
        path_m = np.cumsum([0.0, *speeds[:-1]]) * profile.control_period_s
        self._shift = _to_and_fro(path_m * _PIXELS_PER_M, SIDE - _BLOCK)
        self._canvas = [
            _background(np.random.default_rng((seed, i))) for i in range(len(profile.cameras))
        ]

    def motion(self, query: int) -> MotionHint:
        """How the end effector moves when ``query`` is asked."""
        return SLOW if query // PHASE_QUERIES % 2 else FAST

    def stamp_ns(self, step: int) -> int:
        """Stamp of a control step."""
        return _START_NS + round(1e9 * step * self._profile.control_period_s)

    def observation(self, query: int, proprio: np.ndarray | None) -> Observation:
        """What the policy sees at ``query``, with a state that does not change."""
        step = query * self._profile.chunk
        return Observation(self.frames(step), proprio, INSTRUCTION, self.stamp_ns(step))

    def steps_after(self, query: int) -> Iterator[int]:
        """Control steps behind ``query``, up to and including the next query's."""
        first = query * self._profile.chunk + 1
        yield from range(first, first + self._profile.chunk)

    def frames(self, step: int) -> dict[str, np.ndarray]:
        """Camera -> uint8 (256, 256, 3) RGB at a control step, 0 ... ``queries * chunk``."""
        return {c: self._frame(i, step) for i, c in enumerate(self._profile.cameras)}

    def _frame(self, camera: int, step: int) -> np.ndarray:
        shift, top = int(self._shift[step]), (SIDE - _BLOCK) // 2
        left = shift if camera else 0
        frame = self._canvas[camera][:, left : left + SIDE].copy()
        if not camera:
            frame[top : top + _BLOCK, shift : shift + _BLOCK] = _BLOCK_COLOUR
        random = np.random.default_rng((self._seed, camera, step))
        noise = random.standard_normal(frame.shape, np.float32) * np.float32(self._noise_levels)
        return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


def _to_and_fro(path: np.ndarray, room: float) -> np.ndarray:
    """Positions (n,) on a line of length ``room`` after walking ``path``, turning at both ends."""
    return room - np.abs(path % (2 * room) - room)


def _background(random: np.random.Generator) -> np.ndarray:
    """Soft coloured squares, float32 (256, 512, 3), wide enough to look aside."""
    cells = random.integers(30, 226, (_CELLS, 2 * _CELLS, 3), np.uint8)
    size = (2 * SIDE, SIDE)
    return np.asarray(Image.fromarray(cells).resize(size, Image.BICUBIC), np.float32)
