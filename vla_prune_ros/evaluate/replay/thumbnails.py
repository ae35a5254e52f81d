"""Some moments of a replay as the model saw them, with what each method kept of them."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...bags.observation import Wiring, picture
from ...bags.reader import Bag
from ...errors import DataError, InputRefused
from ...model.images import prepare_image
from ...profiles import Profile
from .records import Recording, ReplayedQuery

MOMENTS = 8
_QUALITY = 90


def strip(
    bag: Bag,
    recording: Recording,
    answers: Mapping[str, Sequence[ReplayedQuery]],
    profile: Profile,
    wiring: Wiring,
    moments: int = MOMENTS,
) -> list[dict[str, Any]]:
    """Moments spread evenly over the queries that every method answered, camera by camera.

    :returns: ``t_s``, ``camera``, ``image`` (JPEG of 224 x 224 as data URI), ``kept`` (method ->
        256 characters 0 or 1) and ``mode`` (method -> word). What cannot be read is left out.
    """
    count = min((len(queries) for queries in answers.values()), default=0)
    usable = [n for n in range(count) if all(q[n].mode for q in answers.values())]
    places = np.linspace(0, len(usable) - 1, min(moments, len(usable))).round().astype(int)
    out = []
    for number in (usable[i] for i in places):
        instant = recording.instants[number]
        seconds = 1e-9 * (instant.receipt_ns - recording.span_ns[0])
        for camera in profile.cameras:
            image = _seen(bag, instant.images[camera], camera, profile, wiring)
            if image is not None:
                out.append(_entry(seconds, camera, image, number, answers))
    return out


def _seen(
    bag: Bag, place: Any, camera: str, profile: Profile, wiring: Wiring
) -> np.ndarray | None:
    try:
        frame = picture(camera, bag.read(place), wiring)
    except (DataError, InputRefused):
        return None
    return prepare_image(frame, profile.pre_resize)


def _entry(
    seconds: float,
    camera: str,
    image: np.ndarray,
    number: int,
    answers: Mapping[str, Sequence[ReplayedQuery]],
) -> dict[str, Any]:
    _, data = cv2.imencode('.jpg', image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    queries = {method: q[number] for method, q in answers.items()}
    return {
        't_s': seconds,
        'camera': camera,
        'image': 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode(),
        'kept': {
            m: ''.join('1' if k else '0' for k in q.kept[camera]) for m, q in queries.items()
        },
        'mode': {m: q.mode for m, q in queries.items()},
    }
