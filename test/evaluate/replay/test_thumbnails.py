"""Which moments of a replay are shown, and what. Frames are drawn by formula, so what must be seen
at a moment is known; every frame has noise of its own, by which it is told from the others."""

import base64

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer
import formula_bag as recorded
import replay_result as sample
from formula_bag import MS, T0

from vla_prune_ros.bags.reader import Bag, Place
from vla_prune_ros.evaluate.replay.thumbnails import thumbnails
from vla_prune_ros.model.images import prepare_image
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.runtime.params import SessionParams

SIDE = 48
COUNT = 12
TIMES = range(0, 100 * COUNT, 100)
RNG = np.random.default_rng(5)
MASKS = RNG.random((3, COUNT, 2, 256)) < 0.5


def recording(count):
    """Queries every 100 ms, the second camera 12 ms behind the first."""
    instants = [
        sample.instant(
            stamp_ns=T0 + (ms + 12) * MS,
            receipt_ns=T0 + (ms + 20) * MS,
            images={
                'primary': Place('/primary', T0 + (ms + 8) * MS, 0),
                'wrist': Place('/wrist', T0 + (ms + 20) * MS, 0),
            },
        )
        for ms in TIMES[:count]
    ]
    return sample.recording(instants, span_ns=(T0 - 500 * MS, T0 + 2000 * MS))


def queries(method, refused=(), count=COUNT):
    """Every method has masks of its own; those of its queries that were refused have none."""
    mode = ('dense', 'fine', 'coarse')[method]
    kept = [dict(zip(LIBERO.cameras, masks, strict=True)) for masks in MASKS[method]]
    return [
        sample.query(i, refusal='corrupt: no')
        if i in refused
        else sample.query(i, np.zeros((8, 7)), kept=kept[i], mode=mode)
        for i in range(count)
    ]


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    rows = recorded.images('primary', TIMES, side=SIDE)
    rows += recorded.images('wrist', [ms + 12 for ms in TIMES], side=SIDE)
    return recorded.write(tmp_path_factory.mktemp('pictures') / 'bag', rows)


def shown(path, answers, params=None, count=COUNT, **options):
    with Bag(path) as bag:
        params = params or SessionParams()
        return thumbnails(bag, recording(count), answers, LIBERO, params, **options)


def numbers(entries):
    """Numbers of the queries that are shown, camera by camera; the bag began half a second before
    the first stamp."""
    return [(round((e.t_s - 0.52) / 0.1, 6), e.camera) for e in entries]


def every_camera(*wanted):
    return [(n, camera) for n in wanted for camera in LIBERO.cameras]


def decoded(entry):
    """uint8 (224, 224, 3) RGB of the data URI."""
    head, data = entry.image.split(',')
    assert head == 'data:image/jpeg;base64'
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (224, 224, 3)
    return image[..., ::-1]


def seen(camera, ms, turned=False):
    """What the model must have seen of a frame."""
    frame = recorded.pixels(camera, ms, SIDE)
    return prepare_image(np.ascontiguousarray(frame[::-1, ::-1]) if turned else frame)


def test_moments_are_spread_evenly_over_the_queries(path):
    """Eight of 0 ... 11 are 11/7 = 1.571 apart: 0, 1.57, 3.14, 4.71, 6.29, 7.86, 9.43, 11."""
    entries = shown(path, {'dense': queries(0)})
    assert numbers(entries) == every_camera(0, 2, 3, 5, 6, 8, 9, 11)
    three = shown(path, {'dense': queries(0)}, moments=3)
    assert numbers(three) in (every_camera(0, 5, 11), every_camera(0, 6, 11))  # 5.5


def test_only_queries_that_every_method_answered_are_shown(path):
    answers = {'a': queries(0, refused=(0, 3, 4)), 'b': queries(1, refused=(3, 5, 7, 8, 9, 10))}
    assert numbers(shown(path, answers)) == every_camera(1, 2, 6, 11)
    assert numbers(shown(path, answers, moments=1)) == every_camera(1)
    assert shown(path, {}) == ()
    assert shown(path, {'a': queries(0, refused=range(COUNT))}) == ()
    assert shown(path, {'a': queries(0), 'b': []}) == ()


def test_images_and_masks_are_those_of_the_moment(path):
    """Within what JPEG costs, and nearer to the frame of the moment than to any other."""
    entries = shown(path, {'a': queries(0), 'b': queries(1), 'c': queries(2)}, moments=5)
    candidates = {
        c: np.array([seen(c, ms + 12 * (c == 'wrist')) for ms in TIMES], int)
        for c in LIBERO.cameras
    }
    for entry, (number, camera) in zip(entries, numbers(entries), strict=True):
        error = np.abs(candidates[camera] - decoded(entry)).mean(axis=(1, 2, 3))
        assert error.argmin() == number and error.min() < 2.0
        assert np.sort(error)[1] > 1.2 * error.min()
        masks = MASKS[:, int(number), LIBERO.cameras.index(camera)]
        assert [entry.kept[m] for m in 'abc'] == [''.join('01'[int(b)] for b in m) for m in masks]
        assert entry.mode == {'a': 'dense', 'b': 'fine', 'c': 'coarse'}


def test_a_camera_that_is_mounted_upside_down_is_turned(path):
    params = SessionParams(rotate_180=('wrist',))
    for entry in shown(path, {'a': queries(0)}, params, moments=1):
        turned = entry.camera == 'wrist'
        ms = 12 if turned else 0
        image = decoded(entry).astype(int)
        assert np.abs(image - seen(entry.camera, ms, turned)).mean() < 2.0
        assert np.abs(image - seen(entry.camera, ms, not turned)).mean() > 10.0


def test_what_cannot_be_read_is_left_out(path, tmp_path):
    """The second camera's frame of 0 ms is broken and that of 100 ms is not in the bag."""
    rows = recorded.images('primary', TIMES, side=SIDE)
    broken = writer.image_message(T0 + 12 * MS, recorded.pixels('wrist', 12, SIDE))
    broken.data = broken.data[:-1]
    rows.append(('/wrist', T0 + 20 * MS, broken))
    rows += recorded.images('wrist', [ms + 12 for ms in TIMES[2:]], side=SIDE)
    other = recorded.write(tmp_path / 'bag', rows)
    entries = shown(other, {'a': queries(0, count=3)}, count=3)
    assert numbers(entries) == [(0, 'primary'), (1, 'primary'), *every_camera(2)]
