"""The frames of an episode in the form in which a pruner compares them."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from ..model.images import check_image, comparison_frame, prepare_image
from ..profiles import Profile
from ..pruning.frames import Frame, FrameHistory
from ..pruning.plan import Pruner


class EpisodeFrames:
    """What :class:`~.policy.Policy` keeps for a pruner that looks back; nothing for others.

    :param fast_images: as the policy prepares its pictures.
    """

    def __init__(self, pruner: Pruner, profile: Profile, fast_images: bool) -> None:
        self._halved = getattr(pruner, 'halved', False)
        exact = partial(prepare_image, pre_resize=profile.pre_resize, fast=fast_images)
        self._exact = exact
        self.history = self._new_history(getattr(pruner, 'look_back_s', 0.0), profile)
        self._ahead: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def watch(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Keep a frame as it came; any thread may call it."""
        if self.history is not None:
            self.history.push(camera, stamp_ns, frame)

    def ahead(self, camera: str, raw: np.ndarray) -> None:
        """Bring a frame of the next query into the form in which it is compared."""
        if self._halved:
            self._ahead[camera] = raw, comparison_frame(raw)

    def query(
        self, stamp_ns: int, raw: Mapping[str, np.ndarray], model_images: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """Keep the frames of a query; returns them as they are compared, by camera.

        :param raw: uint8 (H, W, 3) as the cameras sent them.
        :param model_images: uint8 (224, 224, 3), what the towers see.
        """
        frames = model_images
        if self._halved:
            frames = {c: self._compared(c, raw[c]) for c in model_images}
        if self.history is not None:
            self.history.push_prepared(stamp_ns, frames)
        return frames

    def take_over(self, history: FrameHistory | None) -> None:
        """Go on with the frames of an episode that was interrupted."""
        if self.history is not None and history is not None:
            self.history.take_over(history)

    def clear(self) -> None:
        """Forget all frames."""
        if self.history is not None:
            self.history.clear()

    def _compared(self, camera: str, raw: np.ndarray) -> np.ndarray:
        seen, frame = self._ahead.pop(camera, (None, None))
        return frame if seen is raw else comparison_frame(raw)

    def _new_history(self, look_back_s: float, profile: Profile) -> FrameHistory | None:
        if not look_back_s:
            return None
        # Half a control period: a camera at the control rate is kept in full, however it jitters.
        spacing_s = 0.5 * min(profile.control_period_s, 0.05)
        length = 2 + math.ceil(look_back_s / spacing_s)
        return FrameHistory(self._prepare, round(1e9 * spacing_s), length)

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        check_image(image, 'watched')
        return comparison_frame(image) if self._halved else self._exact(image)
