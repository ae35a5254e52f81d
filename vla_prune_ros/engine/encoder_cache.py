"""From camera frames to visual tokens, of a camera whose frame came early before the others.

One observation as the network takes it: pictures of 224 pixels, a normalised state.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputRefused
from ..model.images import check_image, prepare_image
from ..model.normalization import Statistics
from ..model.proprio import normalize
from ..profiles import Profile
from ..records import Observation
from .graphs import Forward


def normalized_state(
    observation: Observation, statistics: Statistics, profile: Profile
) -> Tensor | None:
    """float64 (1, P) within -1 .. 1; None where the checkpoint takes no state.

    :raises InputRefused: not P finite numbers.
    """
    bounds = statistics.proprio
    if bounds is None:
        return None
    state = np.asarray([] if observation.proprio is None else observation.proprio, np.float64)
    if state.shape != bounds.low.shape or not np.isfinite(state).all():
        raise InputRefused(
            'proprio',
            f'proprio is {state.tolist()}',
            f'profile {profile.name!r} needs {len(bounds.low)} finite numbers',
        )
    return torch.from_numpy(normalize(state, bounds.low, bounds.high, bounds.mask))[None]


def uploaded(images: Mapping[str, np.ndarray], device: torch.device) -> Tensor:
    """Prepared pictures as uint8 (cameras, 224, 224, 3) on ``device``; from pinned memory, so that
    the host does not wait."""
    tensor = torch.from_numpy(np.stack(list(images.values())))
    if device.type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class _Seen(NamedTuple):
    frame: np.ndarray
    prompt_ids: Tensor
    picture: np.ndarray
    visual: Tensor


class EncoderCache:
    """The towers of a policy. A frame that was looked at ahead is not looked at again.

    :param fast: see :func:`~vla_prune_ros.model.images.prepare_image`.
    """

    def __init__(
        self, forward: Forward, profile: Profile, device: torch.device, fast: bool = False
    ) -> None:
        self._forward, self._profile, self._device, self._fast = forward, profile, device, fast
        self._ahead: dict[str, _Seen] = {}
        self._used: dict[str, _Seen] = {}

    def ahead(self, camera: str, frame: np.ndarray, prompt_ids: Tensor) -> None:
        """Look at one camera's frame; a later one of that camera takes its place.

        :param frame: uint8 (H, W, 3), the very array that the observation will hold.
        :param prompt_ids: int64 (1, P), the very tensor of the query.
        :raises InputRefused: it is no image, or the profile has no such camera.
        """
        self._require(camera, self._profile.cameras)
        picture = self._prepared(camera, frame)
        visual = self._forward.visual(uploaded({camera: picture}, self._device), prompt_ids)
        # A copy: a program's next run overwrites what it gave.
        self._ahead[camera] = _Seen(frame, prompt_ids, picture, visual.clone())

    def prepared(self, observation: Observation, prompt_ids: Tensor) -> dict[str, np.ndarray]:
        """Camera -> uint8 (224, 224, 3), in the profile's order.

        :raises InputRefused: a camera is absent, or an image has the wrong shape.
        """
        self._used = {}
        pictures = {}
        for camera in self._profile.cameras:
            self._require(camera, observation.images)
            frame, seen = observation.images[camera], self._ahead.pop(camera, None)
            if seen is not None and seen.frame is frame and seen.prompt_ids is prompt_ids:
                self._used[camera] = seen
                pictures[camera] = seen.picture
            else:
                pictures[camera] = self._prepared(camera, frame)
        return pictures

    def upload(self, pictures: Mapping[str, np.ndarray]) -> Tensor | None:
        """Those of :meth:`prepared` that the towers have not seen, on the device; None: all
        seen."""
        new = {c: picture for c, picture in pictures.items() if c not in self._used}
        return uploaded(new, self._device) if new else None

    def look(self, uploaded: Tensor | None, prompt_ids: Tensor) -> Tensor:
        """(1, cameras * 256, D), camera by camera, of what :meth:`prepared` was given last."""
        new = None if uploaded is None else self._forward.visual(uploaded, prompt_ids)
        if not self._used:
            return new
        cameras = self._profile.cameras
        late = [c for c in cameras if c not in self._used]
        parts = dict(zip(late, () if new is None else new.chunk(len(late), 1), strict=True))
        parts |= {camera: seen.visual for camera, seen in self._used.items()}
        self._used = {}
        return torch.cat([parts[camera] for camera in cameras], dim=1)

    def warm_up(self, side: int, prompt_ids: Tensor) -> None:
        """Run the towers on every number of cameras below all of them."""
        frame = np.full((side, side, 3), 127, np.uint8)
        pictures = {c: self._prepared(c, frame) for c in self._profile.cameras[1:]}
        while pictures:
            self._forward.visual(uploaded(pictures, self._device), prompt_ids)
            pictures.popitem()

    def _prepared(self, camera: str, frame: np.ndarray) -> np.ndarray:
        check_image(frame, camera)
        return prepare_image(frame, self._profile.pre_resize, self._fast)

    def _require(self, camera: str, there: object) -> None:
        if camera not in there:
            raise InputRefused(
                'camera',
                f'camera {camera!r} is absent',
                f'profile {self._profile.name!r} needs {list(self._profile.cameras)}',
            )
