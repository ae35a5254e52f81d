"""A method on a bag. The bag follows formulas, so the test knows every frame, pose and time and
reads none of it: a loop of its own asks ``load_policy(...)`` for what must come out. What does not
depend on weights is checked with a policy that only notes what it is told."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import formula_bag as recorded
from formula_bag import FINGERS, MS, T0, TASK, TURN, VELOCITY, drive, task

from vla_prune_ros import Observation, load_policy
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.evaluate.replay.method import MethodReplay
from vla_prune_ros.evaluate.replay.scan import ReplaySetting, scan
from vla_prune_ros.evaluate.replay.store import ReplayedQuery, dumps, loads
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.records import MotionHint
from vla_prune_ros.runtime.params import SessionParams

SIDE, STOP = 48, 2400
PRIMARY, WRIST = range(0, STOP, 50), range(12, STOP, 100)
NEW_TASK, OTHER = 1600, 'open the drawer'
PLAIN = ReplaySetting(robot=SessionParams(instruction=TASK))
SCALE = np.array([0.05] * 3 + [0.5] * 3 + [1.0])  # of LIBERO's actions: m, rad, opening


@pytest.fixture(scope='module', autouse=True)
def _one_thread():
    """Tiny products: several threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'micro', 'micro')


def place(ms):
    """0.5 m/s upwards for a second, then 0.02 m/s down."""
    return 0.1, -0.2, 0.3 + (5e-4 * ms if ms <= 1000 else 0.5 - 2e-5 * (ms - 1000))


def hand_down(ms):
    """Half a turn about x, then about z at 0.4 rad/s: the rotation vector is pi (cos a, sin a, 0)
    with ``a`` half of that angle."""
    half = 2e-4 * ms
    return math.cos(half), math.sin(half), 0.0, 0.0


def scene():
    """Two tasks, a fast second and a slow one, pairs at 12, 112, 212, ... ms."""
    return (
        recorded.images('primary', PRIMARY, side=SIDE)
        + recorded.images('wrist', WRIST, side=SIDE)
        + recorded.poses(range(0, STOP, 20), place=place, turned=hand_down)
        + recorded.poses(range(10, STOP, 20), delay=4, place=place, turned=hand_down)
        + recorded.fingers(range(0, STOP, 10), opening=lambda ms: 0.5)
        + task(NEW_TASK, OTHER)
    )


@pytest.fixture(scope='module')
def wanted(checkpoint):
    """What must come out of a method, by :func:`expected`."""

    @functools.cache
    def answers(method, period, **changes):
        return expected(load_policy(checkpoint, pruning=method), period, **changes)

    return answers


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return recorded.write(tmp_path_factory.mktemp('method') / 'bag', scene())


def replayed(policy, path, setting=PLAIN, **resumed):
    with Bag(path) as bag:
        return list(MethodReplay(policy, setting).answers(bag, **resumed))


def with_robot(**changes):
    return replace(PLAIN, robot=replace(PLAIN.robot, **changes))


# --- a loop of its own ------------------------------------------------------------------------


def hint(ms):
    """Of poses that are 50 ms apart, or since the first, at the newest one that was heard."""
    end = ms // 10 * 10
    begin = max(end - 50, 0 if ms < NEW_TASK else NEW_TASK)
    velocity = (place(end)[2] - place(begin)[2]) / (1e-3 * (end - begin))
    return MotionHint(abs(velocity), 0.4, velocity, 'pose')


def guarded(actions, robot):
    """SI units; None where a step is more than a quarter beyond a limit."""
    out = actions * SCALE
    out[:, :6] *= robot.speed_scale
    for columns, limit in ((slice(0, 3), robot.max_step_m), (slice(3, 6), robot.max_step_rad)):
        for step in out:
            size = math.hypot(*step[columns])
            if size > 1.25 * limit:
                return None
            step[columns] *= min(1.0, limit / size)
    out[:, 6] = np.clip(out[:, 6], 0, 1)
    return out


def expected(policy, period, robot=PLAIN.robot, refresh=True):
    """What must come out: per query its stamp, the inference, SI actions and the time of a look
    behind it; queries begin at the first pair of each task."""
    frames = [(ms + 8, 'primary', ms) for ms in PRIMARY] + [(ms + 8, 'wrist', ms) for ms in WRIST]
    out, last, told = [], None, None
    for receipt, camera, ms in sorted(frames):
        instruction = TASK if receipt < NEW_TASK else OTHER
        if told == instruction:
            policy.watch(camera, T0 + ms * MS, recorded.pixels(camera, ms, SIDE))
        if camera != 'wrist' or (told == instruction and ms - last < period):
            continue
        if told != instruction:
            policy.reset()
        told, last, half = instruction, ms, 2e-4 * (ms // 10 * 10)
        state = [*place(ms // 10 * 10), math.pi * math.cos(half), math.pi * math.sin(half), 0.0]
        images = {
            'primary': recorded.pixels('primary', ms - 12, SIDE),
            'wrist': recorded.pixels('wrist', ms, SIDE),
        }
        seen = Observation(images, np.array([*state, 0.02, -0.02]), instruction, T0 + ms * MS)
        answer = policy.infer(seen, hint(ms))
        actions = guarded(answer.actions, robot)
        looked = policy.refresh() if refresh and actions is not None else None
        out.append((ms, answer, actions, looked))
    return out


def check(found, wanted):
    assert [(q.stamp_ns - T0) // MS for q in found] == [ms for ms, *_ in wanted]
    assert [q.number for q in found] == list(range(len(wanted)))
    for query, (ms, answer, actions, looked) in zip(found, wanted, strict=True):
        assert query.epoch == (ms >= NEW_TASK) and query.record.mode == answer.mode
        assert (query.record.refresh_ms is None) == (looked is None)
        assert {*query.record.stages_ms, 'total'} == set(answer.timings_ms)
        for camera, mask in answer.kept.items():
            np.testing.assert_array_equal(query.kept[camera], mask)
        told, true = query.record, hint(ms)
        assert told.motion == 'pose'
        speeds = told.motion_m_s, told.motion_angular_rad_s, told.motion_vertical_m_s
        assert speeds == pytest.approx(
            (true.linear_m_s, true.angular_rad_s, true.vertical_m_s), abs=1e-9
        )
        if actions is None:
            assert query.actions is None and query.refusal.startswith('limit_')
        else:
            np.testing.assert_allclose(query.actions, actions, rtol=0, atol=1e-6)
            assert query.refusal == ''


@pytest.mark.parametrize(
    ('method', 'period'),
    [('dense', 100), ('specprune', 100), ('vla_adp', 200)],
)
def test_answers_are_those_of_a_policy_that_lives_the_bag(
    checkpoint, path, wanted, method, period
):
    setting = replace(PLAIN, period_s=1e-3 * period)
    found = replayed(load_policy(checkpoint, pruning=method), path, setting)
    check(found, wanted(method, period))
    if method == 'specprune':  # all of what it does was done: thrice each, and the looks between
        modes = [query.record.mode for query in found]
        assert modes[0] == modes[NEW_TASK // period] == 'dense'
        assert min(modes.count(mode) for mode in ('coarse', 'fine')) >= 3
        assert any(query.record.refresh_ms is not None for query in found)


def test_without_refreshes_specprune_decides_otherwise(checkpoint, path, wanted):
    """And else only the look behind a query is left out."""
    setting = replace(PLAIN, period_s=0.1, refresh=False)
    found = replayed(load_policy(checkpoint, pruning='specprune'), path, setting)
    check(found, wanted('specprune', 100, refresh=False))
    refreshed = [answer.kept['primary'] for _, answer, *_ in wanted('specprune', 100)]
    assert any((q.kept['primary'] != m).any() for q, m in zip(found, refreshed, strict=True))


@pytest.mark.parametrize(
    ('limit', 'columns', 'kind', 'speed_scale'),
    [
        ('max_step_m', slice(0, 3), 'translation', 0.25),
        ('max_step_rad', slice(3, 6), 'rotation', 1.0),
    ],
)
def test_the_guard_scales_a_little_and_refuses_what_is_far(
    checkpoint, path, wanted, limit, columns, kind, speed_scale
):
    """The limit is such that about half of the chunks have a step more than a quarter beyond it.
    What is refused keeps its mode, masks and time, and nothing looks at it again."""
    free = wanted('specprune', 100)
    sizes = [np.linalg.norm((a.actions * SCALE)[:, columns], axis=1).max() for _, a, *_ in free]
    limits = {limit: speed_scale * float(np.median(sizes)) / 1.25, 'speed_scale': speed_scale}
    setting = replace(with_robot(**limits), period_s=0.1)
    found = replayed(load_policy(checkpoint, pruning='specprune'), path, setting)
    check(found, wanted('specprune', 100, robot=setting.robot))
    refused = [query for query in found if query.actions is None]
    assert 4 <= len(refused) <= len(found) - 4
    for query in refused:
        assert query.refusal.startswith(f'limit_{kind}: action step ')
        assert query.record.mode and query.record.total_ms > 0 and query.record.visual_tokens > 0


# --- going on from where it was ---------------------------------------------------------------


def bits(query):
    """Everything but times."""
    stamped = ('skew_ms', 'ages_ms')
    record = {k: v for k, v in vars(query.record).items() if k in stamped or '_ms' not in k}
    actions = None if query.actions is None else query.actions.tobytes()
    kept = {camera: mask.tolist() for camera, mask in query.kept.items()}
    at = query.number, query.epoch, query.stamp_ns
    return at, actions, query.refusal, kept, record, query.record.refresh_ms is None


def stored(queries):
    """As a file gives them back."""
    return [loads(dumps(query), ReplayedQuery) for query in queries]


@pytest.mark.parametrize('source', ['pose', 'actions'])
def test_an_interrupted_replay_goes_on_to_the_last_bit(checkpoint, tmp_path, source):
    """Cut behind the first query, in the middle of a camera that hangs (8, 9 and 10 repeat the
    frame of 7), before the new task (16), and before the last. The guard refuses some."""
    rows = scene()
    for topic, at, message in rows:
        if topic == '/primary' and 800 <= (at - T0) // MS <= 1010:
            message.data = recorded.pixels('primary', 700, SIDE).reshape(-1)
    path = recorded.write(tmp_path / 'bag', rows)
    robot = replace(PLAIN.robot, motion_source=source, max_step_m=0.0125, frozen_frames=1)
    setting = replace(PLAIN, robot=robot, period_s=0.1)
    whole = replayed(load_policy(checkpoint, pruning='specprune'), path, setting)
    reasons = [query.refusal.partition(':')[0] for query in whole]
    assert [n for n, reason in enumerate(reasons) if reason == 'frozen'] == [8, 9, 10]
    assert {'', 'limit_translation'} < set(reasons)
    assert {q.record.mode for q in whole} == {'', 'dense', 'coarse', 'fine'}
    assert any(q.record.motion_m_s is None for q in whole) == (source == 'actions')
    policy = load_policy(checkpoint, pruning='specprune')
    for cut in (1, 9, 16, 23):
        with Bag(path) as bag:
            first = MethodReplay(policy, setting)
            running = first.answers(bag)
            before = [next(running) for _ in range(cut)]
            memory = policy.memory()
            running.close()
        after = replayed(policy, path, setting, before=stored(before), memory=memory)
        assert list(map(bits, [*before, *after])) == list(map(bits, whole))
    blank = replayed(policy, path, setting, before=whole[:12])
    assert list(map(bits, blank)) != list(map(bits, whole[12:]))  # else the test could not fail


def test_going_on_shows_a_policy_only_what_comes(tmp_path, script_policy):
    """What was shown before the third answer, of 412 ms, is in the memory."""

    class Reminded(script_policy):
        def restore(self, memory):
            self.calls.append(memory)

    path = recorded.write(tmp_path / 'bag', drive())
    before, policy = replayed(script_policy(), path)[:3], Reminded()
    after = replayed(policy, path, before=before, memory=b'all of it')
    assert policy.calls == ['reset', b'all of it', *['infer', 'refresh'] * 3]
    assert [query.number for query in after] == [3, 4, 5]
    assert [(at - T0) // MS for _, at, _ in policy.watched] == sorted(
        [*range(450, 1200, 50), *range(512, 1200, 100)]
    )


def test_a_policy_forgets_one_bag_before_the_next(checkpoint, path):
    replay = MethodReplay(load_policy(checkpoint, pruning='specprune'), PLAIN)
    with Bag(path) as bag:
        first = list(map(bits, replay.answers(bag)))
        assert list(map(bits, replay.answers(bag))) == first


# --- without weights --------------------------------------------------------------------------


def asked(policy, path, setting=PLAIN):
    """Replay with a policy that notes what it is told."""
    found = replayed(policy, path, setting)
    assert [q.stamp_ns for q in found if q.record.mode] == [seen.stamp_ns for seen in policy.seen]
    return found


def bag(tmp_path, rows):
    return recorded.write(tmp_path / 'bag', rows)


def test_frames_are_shown_from_the_first_query_on(tmp_path, script_policy):
    """The pair of 12 ms is complete at 20; whatever is received later is shown, decoded when it
    is asked for, turned where the camera is mounted so. Speeds are those of the formula."""
    policy, wiring = script_policy(refresh_ms=2.5), with_robot(rotate_180=('wrist',))
    found = asked(policy, bag(tmp_path, drive()), wiring)
    frames = [(ms + 8, 'primary', ms) for ms in range(0, 1200, 50)]
    frames += [(ms + 8, 'wrist', ms) for ms in range(12, 1200, 100)]
    later = [(camera, ms) for receipt, camera, ms in sorted(frames) if receipt > 20]
    assert [(camera, (at - T0) // MS) for camera, at, _ in policy.watched] == later
    for (camera, ms), (_, _, decode) in zip(later[:6], policy.watched, strict=False):
        shown = recorded.pixels(camera, ms)
        np.testing.assert_array_equal(decode(), shown[::-1, ::-1] if camera == 'wrist' else shown)
    assert policy.calls == ['reset', 'reset', *['infer', 'refresh'] * 6]
    assert [seen.instruction for seen in policy.seen] == [TASK] * 6
    assert all(query.record.refresh_ms == 2.5 for query in found)
    speeds = np.linalg.norm(VELOCITY), np.linalg.norm(TURN), VELOCITY[2]
    for told in policy.hints:
        assert (told.linear_m_s, told.angular_rad_s, told.vertical_m_s) == pytest.approx(speeds)
    np.testing.assert_allclose(found[0].actions, [[0.05, 0, 0, 0, 0, 0, 0]] * 8)


def test_a_jump_of_time_begins_anew_and_the_speed_with_it(tmp_path, script_policy):
    """The second pass begins at 5 s, at another place; its speed is not that of the way there."""
    later = [(topic, at + 5000 * MS, message) for topic, at, message in drive(600)]
    for topic, at, message in later:
        recorded.stamp(message, at - (8 if topic in ('/primary', '/wrist') else 1) * MS)
    policy = script_policy()
    found = asked(policy, bag(tmp_path, drive(600) + later))
    assert [(q.epoch, (q.stamp_ns - T0) // MS) for q in found] == [
        (epoch, start + ms) for epoch, start in ((0, 0), (1, 5000)) for ms in (12, 212, 412)
    ]
    calls = [call for call in policy.calls if call != 'refresh']
    assert calls == ['reset', 'reset', *['infer'] * 3, 'reset', *['infer'] * 3]
    speeds = [told.linear_m_s for told in policy.hints]
    assert speeds == pytest.approx([np.linalg.norm(VELOCITY)] * 6)


def test_what_cannot_be_decoded_is_refused_and_the_next_is_not(tmp_path, script_policy):
    rows = drive()
    for topic, at, message in rows:
        if (topic, at) == ('/wrist', T0 + 220 * MS):
            message.data = message.data[:-1]
        if (topic, at) == ('/joint_states', T0 + 411 * MS):
            message.name = ['other', FINGERS[1]]
    policy = script_policy()
    found = asked(policy, bag(tmp_path, rows))
    reasons = [query.refusal.partition(':')[0] for query in found]
    assert reasons[0] == '' and set(reasons[3:]) == {''} and '' not in reasons[1:3]
    assert "camera 'wrist'" in found[1].refusal and FINGERS[0] in found[2].refusal
    assert len(policy.seen) == 4
    np.testing.assert_allclose(policy.seen[1].proprio[:3], recorded.position(610), atol=1e-12)


def test_a_chunk_that_was_refused_moves_nothing(tmp_path, script_policy):
    """The first chunk leaves at 0.9 m/s, the others are refused: it is active for 400 ms."""

    class Wild(script_policy):
        def infer(self, observation, motion=None):
            self.value = 9.0 if self.seen else 0.9
            return super().infer(observation, motion)

    policy = Wild()
    asked(policy, bag(tmp_path, drive()), with_robot(motion_source='actions'))
    told = [None if hint is None else round(hint.linear_m_s, 9) for hint in policy.hints]
    assert told == [None, 0.9, None, None, None, None]


@pytest.mark.parametrize('period_s', [None, 0.0, 3.0])
def test_queries_are_those_of_the_pass_without_a_policy(tmp_path, script_policy, period_s):
    """Images and state pause for two seconds, the commands go on: no jump of time for either.
    Then everything pauses, a task comes, and stamps jump back."""
    rows = drive(600) + recorded.twists(range(0, 4000, 50))
    rows += [(topic, at + 2500 * MS, message) for topic, at, message in shifted(drive(600), 2500)]
    rows += [(topic, at + 6000 * MS, message) for topic, at, message in shifted(drive(1200), 5900)]
    rows += task(6500, OTHER)
    path = bag(tmp_path, rows)
    setting = replace(PLAIN, period_s=period_s)
    found, policy = scan(path, setting), script_policy()
    queries = asked(policy, path, setting)
    assert [(q.epoch, q.stamp_ns) for q in queries] == [
        (instant.epoch, instant.stamp_ns) for instant in found.instants
    ]
    assert {(q.epoch, (q.stamp_ns - T0) // MS) for q in queries} >= {(0, 12), (1, 5912)}
    assert ((0, 2512) in {(q.epoch, (q.stamp_ns - T0) // MS) for q in queries}) == (
        period_s != 3.0
    )


def shifted(rows, by_ms):
    """Rows whose messages have later stamps."""
    for _, _, message in rows:
        at = message.header.stamp
        recorded.stamp(message, at.sec * 10**9 + at.nanosec + by_ms * MS)
    return rows
