"""Some moments of a replay as the model saw them, with what each method kept of them."""

import base64
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ...bags.events import BAG_READER
from ...bags.reader import Bag
from ...errors import DataError, InputRefused
from ...model.images import prepare_image
from ...profiles import Profile
from ...runtime.images import draw_overlay
from ...runtime.params import SessionParams
from ...runtime.session import Observer
from .results import Moment
from .store import Recording, ReplayedQuery

MOMENTS = 8
_PREFIX = 'data:image/jpeg;base64,'


def thumbnails(
    bag: Bag,
    recording: Recording,
    answers: Mapping[str, Sequence[ReplayedQuery]],
    profile: Profile,
    params: SessionParams,
    moments: int = MOMENTS,
) -> tuple[Moment, ...]:
    """Moments spread evenly over the queries that every method answered, camera by camera.

    Images that cannot be read are left out.
    """
    every = enumerate(zip(*answers.values(), strict=False))
    usable = [n for n, queries in every if all(q.record.mode for q in queries)]
    places = np.linspace(0, len(usable) - 1, min(moments, len(usable))).round().astype(int)
    observer, out = Observer(profile, params, BAG_READER), []
    for number in (usable[i] for i in places):
        instant = recording.instants[number]
        queries = {method: q[number] for method, q in answers.items()}
        for camera in profile.cameras:
            try:
                frame = observer.image(camera, bag.read(instant.images[camera]))
            except (DataError, InputRefused):
                continue
            kept = {m: ''.join('01'[int(k)] for k in q.kept[camera]) for m, q in queries.items()}
            t_s = 1e-9 * (instant.receipt_ns - recording.span_ns[0])
            image = _jpeg_uri(prepare_image(frame, profile.pre_resize), quality=90)
            mode = {m: q.record.mode for m, q in queries.items()}
            out.append(Moment(t_s=t_s, camera=camera, image=image, kept=kept, mode=mode))
    return tuple(out)


def overlay_uri(image: str, kept: str) -> str:
    """A moment's image with pruned patches dimmed, again as JPEG data URI.

    :param kept: ``'1'`` for each patch that was kept, else ``'0'``, row-major.
    """
    coded = np.frombuffer(base64.b64decode(image.removeprefix(_PREFIX)), np.uint8)
    rgb = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    mask = np.frombuffer(kept.encode('ascii'), np.uint8) == ord('1')
    return _jpeg_uri(draw_overlay(rgb, mask), quality=85)


def _jpeg_uri(rgb: np.ndarray, quality: int) -> str:
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    _, coded = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return _PREFIX + base64.b64encode(coded.tobytes()).decode('ascii')
