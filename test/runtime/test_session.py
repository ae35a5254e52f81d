"""The session in one thread, with samples of numbers and a policy that records what it is shown.

Expected requests, epochs and refusals follow from the contract in ``session.py``. What it decides
over whole recordings: ``test/bags/test_events.py``.
"""

from array import array
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ActionRefused, InputRefused, ProfileError
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.records import Inference
from vla_prune_ros.runtime.pairing import NotReady
from vla_prune_ros.runtime.params import SessionParams
from vla_prune_ros.runtime.session import (
    JOINTS,
    MAX_CHARACTERS,
    POSE,
    FrozenFrames,
    InferenceRequest,
    Now,
    PartialFrame,
    PolicySession,
    SampleReader,
    clean_instruction,
)

MS, T0 = 1_000_000, 10**18
FINGERS = SessionParams().gripper_joints


class Sample(NamedTuple):
    """An image if ``pixel`` is a number; a pose with this x, and the state of both fingers."""

    ms: int
    pixel: int | None = None
    x: float = 0.0


def image(sample):
    if sample.pixel is None:
        raise InputRefused('corrupt', 'no image', 'repair it')
    return np.full((2, 2, 3), sample.pixel, np.uint8)


READER = SampleReader(
    stamp_ns=lambda sample: T0 + sample.ms * MS,
    image=image,
    image_bytes=image,
    pose=lambda sample: (np.array([sample.x, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0])),
    joints=lambda sample: (FINGERS, [0.01, -0.01], []),
)


class StubPolicy:
    """Moves by ``step`` in x, in metres; ``log`` holds what the session called."""

    profile = LIBERO
    statistics = SimpleNamespace(proprio=None)

    def __init__(self):
        self.log, self.step = [], 0.001

    def reset(self):
        self.log.append('reset')

    def watch(self, camera, stamp_ns, frame):
        self.log.append(('watch', camera, (stamp_ns - T0) // MS))

    def prefetch(self, camera, image, instruction):
        self.log.append(('prefetch', camera, int(image[0, 0, 0])))

    def refresh(self, proceed):
        return 2.5 if proceed() else None

    def infer(self, observation, motion):
        self.log.append(('infer', int(observation.images['wrist'][0, 0, 0]), motion))
        actions = np.zeros((8, 7))
        actions[:, 0] = self.step / LIBERO.action_scale[0]
        return Inference(
            actions=actions,
            normalized=actions.astype(np.float32),
            kept={c: np.arange(4) < 3 for c in LIBERO.cameras},
            kept_by_site={},
            mode='fine',
            timings_ms={'language': 1.23456, 'total': 2.0},
            model_images={},
            prompt='In:\nOut:',
            pruning={'reason': 'slow', 'changed': 3},
        )


class Driver:
    """A session whose samples are received when they are stamped."""

    def __init__(self, **params):
        self.policy, self.pixel = StubPolicy(), 0
        self.session = PolicySession(self.policy, SessionParams(**params), READER)
        self.session.instruct('lift it')

    def add(self, stream, sample):
        return self.session.add(stream, sample, Now(T0 + sample.ms * MS, sample.ms * MS))

    def request(self, ms, pixel=None, x=0.0, **changed):
        """Of one instant; every image is another one unless ``pixel`` is given."""
        self.pixel += 1
        image = Sample(ms, self.pixel if pixel is None else pixel)
        samples = {**dict.fromkeys(LIBERO.cameras, image), **changed}
        for stream, sample in {POSE: Sample(ms, x=x), JOINTS: Sample(ms), **samples}.items():
            self.add(stream, sample)
        return self.session.next_request(Now(T0 + ms * MS, ms * MS))

    def infer(self, ms, waited_s=0.0, **sample):
        request = self.request(ms, **sample)
        assert isinstance(request, InferenceRequest), request
        return self.session.infer(request, waited_s)


def test_a_request_comes_with_an_instruction_a_pair_and_after_a_period():
    one = Driver()
    one.session.instruct('')
    assert one.request(0).reason == 'no_instruction'
    assert one.session.instruct('lift it') and not one.session.instruct('lift it')
    assert one.session.next_request(Now(T0, 0)).reason.startswith('missing')
    first = one.request(10)
    assert (first.stamp_ns, first.instruction) == (T0 + 10 * MS, 'lift it')
    assert one.request(50).stamp_ns == T0 + 50 * MS  # the period begins where a request runs
    one.session.begin(first)
    assert [isinstance(one.request(ms), NotReady) for ms in (209, 210)] == [True, False]
    with pytest.raises(ProfileError, match='period'):
        PolicySession(one.policy, SessionParams(), READER, period_s=float('inf'))


@pytest.mark.parametrize('why', ['instruct', 'reset', 'jump'])
def test_a_new_epoch_forgets_what_came_before(why):
    one = Driver()
    before = one.infer(10).request
    if why == 'jump':
        assert one.add(POSE, Sample(-1000))
    else:
        one.session.instruct('other') if why == 'instruct' else one.session.reset('user')
    assert one.session.next_request(Now(T0 + 10 * MS, 10 * MS)).reason.startswith('missing')
    after = one.infer(20)  # in spite of the period
    assert after.request.epoch > before.epoch and after.request.motion is None
    assert [entry for entry in one.policy.log if entry == 'reset'] == ['reset'] * 2


def test_a_chunk_and_its_record():
    one = Driver(speed_scale=0.5, frame_id='base')
    one.session.refresh()
    one.infer(0)
    assert one.session.refresh(lambda: False) is None and one.session.refresh() == 2.5
    result = one.infer(200, waited_s=0.25, x=0.04)
    chunk, record = result.chunk, result.record
    np.testing.assert_allclose(chunk.deltas, [[0.0005, 0, 0, 0, 0, 0]] * 8)
    assert (chunk.stamp_ns, chunk.dt_s, chunk.frame_id) == (T0 + 200 * MS, 0.05, 'base')
    assert result.position.tolist() == [0.04, 0, 0] and result.refusal is None
    np.testing.assert_allclose(result.observation.proprio[[0, 6, 7]], [0.04, 0.01, -0.01])
    assert (record.mode, record.reason, record.pruning) == ('fine', 'slow', {'changed': 3})
    assert (record.visual_tokens, record.kept) == (6, {'primary': 3, 'wrist': 3})
    assert (record.total_ms, record.stages_ms, record.prompt) == (
        2.0,
        {'language': 1.235},
        'In: Out:',
    )
    assert (record.motion, record.motion_m_s) == ('pose', pytest.approx(0.2))
    assert (record.refresh_ms, record.steps, record.scaled_steps) == (2.5, 8, 0)
    assert set(record.node_ms) == {'pairing', 'queue', 'decode', 'state', 'guard'}
    assert record.node_ms['queue'] == 250 and record.early_cameras == 0
    final = result.published_record(publish_ms=3.0, report_ms=4.0, age_ms=70.0)
    assert final.overhead_ms == pytest.approx(sum(final.node_ms.values()) - 250)
    assert (final.node_ms['publish'], final.stamp_to_chunk_ms) == (3.0, 70.0)


def test_each_refusal_leaves_the_session_in_order():
    one = Driver(frozen_frames=2, max_step_m=0.02)
    assert one.infer(0, wrist=Sample(0)).refusal.reason == 'corrupt'
    stale = one.infer(200, waited_s=0.6).refusal
    assert stale.reason == 'stale' and 'primary' in stale.what
    one.policy.step = 0.03
    beyond = one.infer(400)
    assert isinstance(beyond.refusal, ActionRefused) and beyond.chunk is None
    assert beyond.inference is not None and beyond.record.mode == 'fine'
    one.policy.step = 0.001
    frozen = [one.infer(ms, pixel=7).refusal for ms in (600, 800, 1000, 1200)]
    assert [r and r.reason for r in frozen] == [None, None, 'frozen', 'frozen']
    assert one.infer(1400).chunk is not None


def test_thirty_equal_frames_are_reported_where_none_is_refused():
    one = Driver()
    results = [one.infer(200 * i, pixel=7) for i in range(31)]
    assert not results[29].frozen and results[30].frozen == {'primary': 30, 'wrist': 30}


def test_what_was_prefetched_is_not_decoded_again():
    one = Driver()
    early, other = Sample(0, 50), Sample(0, 50)
    one.session.prefetch(PartialFrame('wrist', early, 'lift it'))
    one.session.prefetch(PartialFrame('primary', Sample(0), 'lift it'))  # refused later, if used
    result = one.infer(0, wrist=early)
    assert result.record.early_cameras == 1 and result.observation.images['wrist'][0, 0, 0] == 50
    assert [e for e in one.policy.log if e[0] == 'prefetch'] == [('prefetch', 'wrist', 50)]
    one.session.prefetch(PartialFrame('wrist', other, 'lift it'))
    assert one.infer(200).record.early_cameras == 0


def test_frames_are_shown_within_an_episode_only():
    one = Driver()
    one.session.watch('wrist', Sample(0, 1))
    one.infer(0)
    one.session.watch('wrist', Sample(50, 1))
    one.session.reset('user')
    one.session.watch('wrist', Sample(60, 1))
    assert [e for e in one.policy.log if e[0] == 'watch'] == [('watch', 'wrist', 50)]
    still = Driver(stepping='synchronous')
    still.infer(0)
    for ms in (0, 50):  # the frame of the request again, then a new one
        still.session.watch('wrist', Sample(ms, 1))
    assert [e for e in still.policy.log if e[0] == 'watch'] == [('watch', 'wrist', 50)]


def test_what_was_replayed_is_a_motion_of_its_own_epoch():
    one = Driver(motion_source='actions')
    result = one.infer(0)
    one.session.replayed(result.request, result.chunk)
    assert one.request(200).motion.linear_m_s == pytest.approx(0.001 / 0.05)
    one.session.reset('user')
    request = one.request(250)
    assert request.motion is None and 'no chunk' in request.motion_why


# --- frozen cameras: consecutive frames with the very same bytes ---------------------------------

SIZE = 20_000


@settings(deadline=None)
@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_change_of_any_byte_is_seen(at, by):
    """In one buffer that is drawn into again: it must not look frozen."""
    frame, frames = np.zeros(SIZE, np.uint8), FrozenFrames()
    frames.update('primary', frame)
    frame[at] += by
    assert [frames.update('primary', frame) for _ in range(2)] == [0, 1]


def test_repeats_are_counted_by_camera_until_another_frame_or_a_reset():
    frames, still, other = FrozenFrames(), bytes(9000), array('B', [1] * 9000)
    assert [frames.update('wrist', still) for _ in range(3)] == [0, 1, 2]
    assert frames.update('primary', other) == 0
    assert [frames.update('wrist', x) for x in (other, other, other[:-1])] == [0, 1, 0]
    frames.reset()
    assert frames.update('primary', other) == 0


# --- instructions as people type them, against the form the training data has --------------------


@pytest.mark.parametrize(
    ('typed', 'cleaned'),
    [
        ('pick up the red cube', 'pick up the red cube'),
        ('Pick up the Red Cube.', 'pick up the red cube'),
        ('  pick\tup \n the  cube !? ', 'pick up the cube'),
        ('open drawer 2, then close it.', 'open drawer 2, then close it'),
        ('pick\x00up\x1b[31m', 'pick up [31m'),
        ('hebe den Würfel auf', 'hebe den würfel auf'),
    ],
)
def test_examples(typed, cleaned):
    assert clean_instruction(typed) == cleaned


@pytest.mark.parametrize('typed', ['', ' \n\t', '...', ' ?! ', '\x00', 'a' * (MAX_CHARACTERS + 1)])
def test_nothing_and_too_much_are_refused(typed):
    with pytest.raises(InputRefused) as refusal:
        clean_instruction(typed)
    assert refusal.value.reason == 'instruction'


@given(st.text(max_size=MAX_CHARACTERS))
def test_what_comes_out_is_one_clean_line_and_stays_as_it_is(typed):
    try:
        cleaned = clean_instruction(typed)
    except InputRefused:
        return
    assert cleaned.isprintable() and cleaned == cleaned.strip() and '  ' not in cleaned
    assert cleaned[-1] not in '.!?;:,'
    if len(cleaned) <= MAX_CHARACTERS:  # lower case of a few letters is longer
        assert clean_instruction(cleaned) == cleaned
