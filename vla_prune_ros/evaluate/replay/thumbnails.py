"""Some moments of a replay as the model saw them, with what each method kept of them."""

import base64
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ...bags.events import BAG_READER
from ...bags.reader import Bag, Place
from ...errors import DataError, InputRefused
from ...model.images import prepare_image
from ...profiles import Profile
from ...runtime.overlay import draw_overlay
from ...runtime.params import SessionParams
from ...runtime.session import Observer
from .records import Recording, ReplayedQuery
from .results import Moment

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
    count = min((len(queries) for queries in answers.values()), default=0)
    usable = [n for n in range(count) if all(q[n].record.mode for q in answers.values())]
    places = np.linspace(0, len(usable) - 1, min(moments, len(usable))).round().astype(int)
    observer, out = Observer(profile, params, BAG_READER), []
    for number in (usable[i] for i in places):
        instant = recording.instants[number]
        seconds = 1e-9 * (instant.receipt_ns - recording.span_ns[0])
        for camera in profile.cameras:
            image = _seen(bag, instant.images[camera], camera, observer)
            if image is not None:
                out.append(_entry(seconds, camera, image, number, answers))
    return tuple(out)


def _seen(bag: Bag, place: Place, camera: str, observer: Observer) -> np.ndarray | None:
    try:
        frame = observer.image(camera, bag.read(place))
    except (DataError, InputRefused):
        return None
    return prepare_image(frame, observer.profile.pre_resize)


def _entry(
    seconds: float,
    camera: str,
    image: np.ndarray,
    number: int,
    answers: Mapping[str, Sequence[ReplayedQuery]],
) -> Moment:
    queries = {method: q[number] for method, q in answers.items()}
    return Moment(
        t_s=seconds,
        camera=camera,
        image=_jpeg_uri(image, quality=90),
        kept={m: ''.join('1' if k else '0' for k in q.kept[camera]) for m, q in queries.items()},
        mode={m: q.record.mode for m, q in queries.items()},
    )


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
