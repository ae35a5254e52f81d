from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputRefused
from ..model.images import check_image, prepare_image
from ..profiles import Profile
from ..records import Observation
from .graphs import Forward


@dataclass(frozen=True)
class _Prefetched:
    frame: np.ndarray
    prompt_ids: Tensor
    image: np.ndarray
    visual: Tensor


@dataclass(frozen=True)
class PreparedImages:
    """:ivar images: camera -> uint8 (224, 224, 3), in the profile's order.
    :ivar uploaded: uint8 (cameras, 224, 224, 3) on the device, those that are not ``cached``.
    :ivar cached: camera -> (1, 256, D) of those that the towers have seen."""

    images: dict[str, np.ndarray]
    uploaded: Tensor | None
    cached: dict[str, Tensor]


class EncoderCache:
    """From camera frames to visual tokens; a frame that was encoded ahead is not encoded again."""

    def __init__(
        self, forward: Forward, profile: Profile, device: torch.device, fast: bool = False
    ) -> None:
        self._forward, self._profile, self._device, self._fast = forward, profile, device, fast
        self._prefetched: dict[str, _Prefetched] = {}

    def prefetch(self, camera: str, frame: np.ndarray, prompt_ids: Tensor) -> None:
        """The very array of the observation, the very tensor of the query."""
        self._require(camera, self._profile.cameras)
        image = self._prepared(camera, frame)
        visual = self._forward.visual(self._upload({camera: image}), prompt_ids)
        # A copy: a graph's next replay overwrites what it gave.
        self._prefetched[camera] = _Prefetched(frame, prompt_ids, image, visual.clone())

    def prepare(self, observation: Observation, prompt_ids: Tensor) -> PreparedImages:
        images, cached = {}, {}
        for camera in self._profile.cameras:
            self._require(camera, observation.images)
            frame, ahead = observation.images[camera], self._prefetched.pop(camera, None)
            if ahead is not None and ahead.frame is frame and ahead.prompt_ids is prompt_ids:
                images[camera], cached[camera] = ahead.image, ahead.visual
            else:
                images[camera] = self._prepared(camera, frame)
        new = {c: image for c, image in images.items() if c not in cached}
        return PreparedImages(images, self._upload(new) if new else None, cached)

    def encode_images(self, prepared: PreparedImages, prompt_ids: Tensor) -> Tensor:
        """(1, cameras * 256, D), camera by camera."""
        visual = dict(prepared.cached)
        if prepared.uploaded is not None:
            new = self._forward.visual(prepared.uploaded, prompt_ids)
            if not visual:
                return new
            late = [c for c in prepared.images if c not in visual]
            visual.update(zip(late, new.chunk(len(late), 1), strict=True))
        return torch.cat([visual[camera] for camera in prepared.images], dim=1)

    def warm_up(self, side: int, prompt_ids: Tensor) -> None:
        frame = np.full((side, side, 3), 127, np.uint8)
        images = {c: self._prepared(c, frame) for c in self._profile.cameras[1:]}
        while images:
            self._forward.visual(self._upload(images), prompt_ids)
            images.popitem()

    def _upload(self, images: Mapping[str, np.ndarray]) -> Tensor:
        tensor = torch.from_numpy(np.stack(list(images.values())))
        if self._device.type == 'cuda':  # the host does not wait for a copy from pinned memory
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _prepared(self, camera: str, frame: np.ndarray) -> np.ndarray:
        check_image(frame, camera)
        return prepare_image(frame, self._profile.pre_resize, self._fast)

    def _require(self, camera: str, present: object) -> None:
        if camera not in present:
            raise InputRefused(
                'camera',
                f'camera {camera!r} is absent',
                f'profile {self._profile.name!r} needs {list(self._profile.cameras)}',
            )
