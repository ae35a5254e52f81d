"""Demonstrations out of bags. Labels are those of motions in closed form, computed here by hand:
constant velocities, turns about a fixed axis, and products of matrix exponentials."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer

from vla_prune_ros.errors import DataError, ProfileError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.config import Data
from vla_prune_ros.train.sources.base import open_source
from vla_prune_ros.train.sources.rosbag import Rosbag

T0, MS, write = writer.T0, writer.MS, writer.write
close = np.testing.assert_allclose
DT = 0.05
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
TASK = 'pick up the cube'
SI = replace(LIBERO, action_scale=(1.0,) * 7)  # labels in m and rad
IMAGES = {'primary': '/primary', 'wrist': '/wrist'}
TOPICS = {'images': IMAGES, 'ee_pose': '/ee', 'joint_states': '/joints'}
OPTIONS = {'topics': TOPICS, 'instruction': TASK}


def quat(axis, angle):
    """x y z w of a turn about a unit axis."""
    return (*(math.sin(angle / 2) * np.asarray(axis)), math.cos(angle / 2))


def still(_):
    return (0.3, 0.0, 0.5), (0, 0, 0, 1)


def record(seconds, pose=still, finger=lambda t: 0.04, start=T0, camera_hz=20, gap=None):
    """States at 100 Hz, cameras at their rate; ``pose`` and ``finger`` are functions of seconds.

    :param gap: seconds between which no pose comes.
    """
    rows = []
    for i in range(round(100 * seconds) + 1):
        t, stamp = i / 100, start + i * 10 * MS
        if gap is None or not gap[0] < t < gap[1]:
            rows.append(('/ee', stamp, writer.pose_message(stamp, *pose(t))))
        state = writer.joints_message(stamp, FINGERS, (finger(t), -finger(t)))
        rows.append(('/joints', stamp, state))
    for i in range(int(camera_hz * seconds) + 1):
        stamp = start + round(i * 1e9 / camera_hz)
        pixels = np.full((4, 4, 3), i % 256, np.uint8)
        rows += [(t, stamp, writer.image_message(stamp, pixels)) for t in ('/primary', '/wrist')]
    return sorted(rows, key=lambda row: row[1])


def source(tmp_path, rows, profile=SI, storage='mcap', **options):
    path = write(tmp_path / 'bag', rows, storage)
    return Rosbag(path, profile, **{**OPTIONS, **options})


def starts(data, camera_hz=20):
    """Seconds of all frames, by the number that each image shows."""
    shown = [int(data[i].images['wrist'][0, 0, 0]) for i in range(len(data))]
    return np.array(shown) / camera_hz


def ms(*ranges):
    return [t / 1000 for begin, end in ranges for t in range(begin, end, 50)]


def line(t):
    return (0.1 * t, -0.2 * t, 0.5), (0, 0, 0, 1)


AXIS = np.array((2.0, -1.0, 2.0)) / 3.0


def arc(t):
    """Half a radian a second about a fixed axis, from an arbitrary orientation."""
    rotation = expm(skew(0.5 * t * AXIS)) @ expm(skew(np.array((3.0, 0.2, -0.1))))
    return (0, 0, t * t), Rotation.from_matrix(rotation).as_quat()


def skew(v):
    x, y, z = v
    return np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))


def unskew(m):
    return np.array((m[2, 1], m[0, 2], m[1, 0]))


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_a_straight_line(tmp_path, storage):
    """0.1 and -0.2 m/s over 50 ms, in LIBERO's units of 0.05 m. The last of 41 frames is 2.0 s in,
    as the last pose, and no start: frame i has 40 - i labels."""
    data = source(tmp_path, record(2.0, line), LIBERO, storage)
    assert len(data) == 40
    sample = data[3]
    close(sample.chunk, np.tile((0.1, -0.2, 0, 0, 0, 0, 1), (8, 1)), atol=1e-9)
    assert sample.valid.all() and sample.instruction == data.instruction(3) == TASK
    assert set(sample.images) == {'primary', 'wrist'} and (sample.images['wrist'] == 3).all()
    close(sample.state, [0.015, -0.03, 0.5, 0, 0, 0, 0.04, -0.04], atol=1e-12)
    assert not sample.prepared
    assert [int(data[i].valid.sum()) for i in range(31, 40)] == [8, 8, 7, 6, 5, 4, 3, 2, 1]
    close(data[39].chunk[0], [0.1, -0.2, 0, 0, 0, 0, 1], atol=1e-9)
    close(data[39].chunk[1:], np.tile((0, 0, 0, 0, 0, 0, 1), (7, 1)))
    copy = pickle.loads(pickle.dumps(data))  # for another process, which opens its own files
    np.testing.assert_array_equal(copy[3].images['primary'], sample.images['primary'])


def test_turns_are_applied_from_the_left_in_the_base_frame(tmp_path):
    """The axis is the base's although the hand is turned; z is t^2, so a step from t has
    (2 t + dt) dt."""
    data = source(tmp_path, record(1.0, arc))
    for i in (0, 5, 11):
        times = DT * (i + np.arange(8))
        close(data[i].chunk[:, 3:6], np.tile(0.5 * DT * AXIS, (8, 1)), atol=1e-9)
        close(data[i].chunk[:, 2], (2 * times + DT) * DT, atol=1e-12)
    actions, states = data.numbers()  # first actions and states
    assert actions.shape == (20, 7) and states.shape == (20, 8)
    for i in (0, 9, 19):
        np.testing.assert_array_equal(actions[i], data[i].chunk[0])
        np.testing.assert_array_equal(states[i], data[i].state)
    for outside in (20, -1):
        with pytest.raises(IndexError):
            data[outside]


def test_cameras_off_the_grid_get_labels_of_their_own_instant(tmp_path):
    """30 Hz against 20 Hz: each control period gives its first frame; z = t^2 between poses that
    are 10 ms apart is off by less than 25e-6."""
    data = source(tmp_path, record(1.0, arc, camera_hz=30))
    stamps = starts(data, 30)
    assert len(stamps) == 20 and np.diff(stamps).min() > 0.03
    for i in (1, 2, 7):
        assert data[i].chunk[0, 2] == pytest.approx((2 * stamps[i] + DT) * DT, abs=5e-5)


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_a_gap_in_the_poses_is_no_label(tmp_path, storage):
    """No pose between 1.0 and 1.5 s, where more than 0.25 s are not bridged: frames from 1.0 on
    wait for 1.5 s, and the chunk from 0.8 s has four steps."""
    data = source(tmp_path, record(2.5, line, gap=(1.0, 1.5)), storage=storage)
    assert starts(data).tolist() == ms((0, 1000), (1500, 2500))
    assert data[16].valid.tolist() == [True] * 4 + [False] * 4
    bridged = Rosbag(tmp_path / 'bag', SI, **OPTIONS, max_gap_s=0.6)
    assert bridged[16].valid.all()


def test_chunks_end_where_time_jumps(tmp_path):
    """A second episode of the same length starts 10 s later; the same frames come from both."""
    data = source(tmp_path, record(1.0, line) + record(1.0, line, start=T0 + 10**10))
    assert len(data) == 40
    assert [int(data[i].valid.sum()) for i in (18, 19, 20, 38)] == [2, 1, 8, 2]


def test_noops_are_left_out_of_frames_and_chunks(tmp_path):
    """Rest from 0.5 to 1.0 s between two motions: the chunk from 0.3 s has four steps along x and
    then four along y."""

    def pose(t):
        return (0.1 * min(t, 0.5), 0.2 * max(t - 1.0, 0), 0), (0, 0, 0, 1)

    data = source(tmp_path, record(2.0, pose))
    assert starts(data).tolist() == ms((0, 500), (1000, 2000))
    expected = np.zeros((8, 6))
    expected[:4, 0], expected[4:, 1] = 0.005, 0.01
    close(data[6].chunk[:, :6], expected, atol=1e-12)
    assert data[6].valid.all() and data.left_out['no_op'] == 10
    every = Rosbag(tmp_path / 'bag', SI, **OPTIONS, no_op=None)
    assert len(every) == 40
    close(every[6].chunk[4:, :6], 0, atol=1e-12)


def test_a_step_that_moves_the_fingers_alone_is_no_noop(tmp_path):
    """The fingers close from 0.5 s on and are below 40 % at the end of the step from 0.5 s."""
    data = source(tmp_path, record(1.0, finger=lambda t: 0.04 if t < 0.52 else 0.0))
    assert starts(data).tolist() == [0.5]
    assert data[0].chunk[0].tolist() == [0, 0, 0, 0, 0, 0, 0]
    assert data[0].valid.tolist() == [True] + [False] * 7


def test_the_gripper_between_the_thresholds_stays(tmp_path):
    """Openings 1, 0.5, 0.3, 0.5, 0.7 of one range, 0.2 s each: open until below 0.4, closed until
    above 0.6."""
    shares = (1.0, 0.5, 0.3, 0.5, 0.7)
    rows = record(1.0, line, lambda t: 0.02 + 0.06 * shares[min(int(t / 0.2 + 1e-9), 4)])
    data = source(tmp_path, rows, gripper_closed=0.02, gripper_open=0.08)
    ends = DT * (np.arange(20) + 1)
    expected = np.where((ends > 0.4 - 1e-9) & (ends < 0.8 - 1e-9), 0, 1)
    assert [data[i].chunk[0, 6] for i in range(20)] == expected.tolist()


def test_gripper_commands_count_before_the_fingers(tmp_path):
    """Commands in the driver's unit, 0.8 closed and 0 open, a little off the step's instant."""
    rows = record(1.0, line)
    for t, value in ((0.0, 0.0), (0.302, 0.8), (0.699, 0.0)):
        stamp = T0 + round(t * 1e9)
        message = writer.trajectory_message(stamp, ['knuckle'], [[value]], 300 * MS)
        rows.append(('/gripper', stamp, message))
    data = source(
        tmp_path,
        rows,
        topics={**TOPICS, 'gripper': '/gripper'},
        gripper_closed=0.8,
        gripper_open=0.0,
    )
    found = [int(data[i].chunk[0, 6]) for i in range(20)]
    assert found == [1] * 6 + [0] * 8 + [1] * 6


def twists(values, hz=50, start=T0):
    stamps = [start + i * 10**9 // hz for i in range(len(values))]
    return [('/twist', s, writer.twist_message(s, v)) for s, v in zip(stamps, values, strict=True)]


def test_commanded_velocities_are_integrated_over_the_step(tmp_path):
    """50 velocities a second; the product of their exponentials from the left is the step's turn.
    A step of 50 ms from 0 holds two and a half of them, the next the other half and two."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(51, 6))
    rows = record(1.0) + twists(values)
    data = source(tmp_path, rows, actions='commands', topics={**TOPICS, 'twist': '/twist'})
    assert len(data) == 20
    pieces = {0: ((0, 0.02), (1, 0.02), (2, 0.01)), 1: ((2, 0.01), (3, 0.02), (4, 0.02))}
    for step, parts in pieces.items():
        moved, turned = np.zeros(3), np.eye(3)
        for number, seconds in parts:
            moved = moved + values[number, :3] * seconds
            turned = expm(skew(values[number, 3:] * seconds)) @ turned
        close(data[0].chunk[step, :3], moved, atol=1e-12)
        close(data[0].chunk[step, 3:6], unskew(np.real(logm(turned))), atol=1e-9)
    close(data[1].chunk[:7], data[0].chunk[1:], atol=1e-9)


def test_a_velocity_without_a_successor_ends(tmp_path):
    """One twist of 1 m/s at 0.1 s holds for 0.2 s: frames from 0.1 to 0.25 s, 0.05 m each."""
    rows = record(1.0) + twists([(1, 0, 0, 0, 0, 0)], start=T0 + 100 * MS)
    data = source(tmp_path, rows, actions='commands', topics={**TOPICS, 'twist': '/twist'})
    assert starts(data).tolist() == ms((100, 300))
    assert data.numbers()[0][:, 0].tolist() == pytest.approx([0.05] * 4)
    assert data[0].valid.tolist() == [True] * 4 + [False] * 4


def test_commanded_poses(tmp_path):
    """The measured arm stands still, the target moves at 0.1 and -0.2 m/s."""
    rows = record(1.0)
    for i, stamp in enumerate(range(T0, T0 + 1010 * MS, 10 * MS)):
        rows.append(('/target', stamp, writer.pose_message(stamp, *line(i / 100))))
    data = source(tmp_path, rows, actions='commands', topics={**TOPICS, 'pose_target': '/target'})
    close(data[4].chunk, np.tile((0.005, -0.01, 0, 0, 0, 0, 1), (8, 1)), atol=1e-12)
    assert data[4].state[0] == pytest.approx(0.3)


def test_states_keep_to_one_branch_whatever_the_signs(tmp_path):
    """The hand points down, within 0.1 rad of half a turn on either side, with quaternions of
    random sign: rotation vectors by hand, all near (pi, 0, 0) or all near (-pi, 0, 0)."""
    signs = np.random.default_rng(0).choice((-1, 1), 101)

    def pose(t):
        angle = np.pi + 0.1 * math.sin(6 * t)
        return (0.1 * t, 0, 0), signs[round(100 * t)] * np.array(quat((1, 0, 0), angle))

    data = source(tmp_path, record(1.0, pose))
    angles = np.pi + 0.1 * np.sin(6 * DT * np.arange(20))
    states = data.numbers()[1]
    side = np.sign(states[0, 3])
    expected = angles if side > 0 else angles - 2 * np.pi
    close(states[:, 3], expected, atol=1e-9)
    other = Rosbag(tmp_path / 'bag', SI, **OPTIONS, rotation_reference=(-side * 3, 0, 0))
    close(other.numbers()[1][:, 3], expected - side * 2 * np.pi, atol=1e-9)


def test_a_task_that_changes_ends_the_chunks_before(tmp_path):
    rows = record(1.0, line)
    rows += [('/task', T0, writer.text_message('Stack it.'))]
    rows += [('/task', T0 + 480 * MS, writer.text_message('pick it'))]
    data = source(tmp_path, rows, topics={**TOPICS, 'instruction': '/task'}, instruction='')
    found = [data.instruction(i) for i in range(len(data))]
    assert found == ['stack it'] * 9 + ['pick it'] * 10
    # The last pose before the change is that of 470 ms.
    assert [int(data[i].valid.sum()) for i in (1, 8)] == [8, 1]


def test_a_profile_without_state_takes_none(tmp_path):
    """One camera and poses for the labels alone; the fingers still give the gripper."""
    profile = replace(SI, cameras=('wrist',), proprio_kind='none', proprio_dim=0)
    data = source(tmp_path, record(0.5, line), profile)
    assert data[0].state is None and data.numbers()[1] is None
    assert list(data[0].images) == ['wrist'] and data[0].chunk[0, 6] == 1


def test_a_folder_of_bags_is_one_source_and_one_broken_bag_no_end(tmp_path):
    folder = tmp_path / 'all'
    for number, storage in enumerate(('mcap', 'sqlite3')):
        write(folder / f'demo{number}', record(0.5, line, start=T0 + number * 10**12), storage)
    (folder / 'demo9.mcap').write_text('no bag')
    data = Rosbag(folder, SI, **OPTIONS)
    assert len(data) == 20
    assert len(data.lost) == 1 and 'demo9.mcap' in data.lost[0]
    assert (data[0].images['primary'] == 0).all() and (data[19].images['primary'] == 9).all()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='no bags'):
        Rosbag(tmp_path / 'empty', SI, **OPTIONS)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    rows = record(0.5, line)
    broken = next(m for t, s, m in rows if t == '/wrist' and s == T0 + 100 * MS)
    broken.encoding = 'odd8'
    data = source(tmp_path, rows)
    with pytest.raises(DataError, match="camera 'wrist'.*odd8"):
        data[2]


def test_broken_states_cost_their_frames(tmp_path):
    rows = record(1.0, line)
    for topic, stamp, message in rows:
        if topic == '/ee' and stamp == T0 + 200 * MS:
            message.pose.position.x = math.nan
    data = source(tmp_path, rows)
    assert starts(data).tolist() == ms((0, 200), (250, 1000))
    assert np.isfinite(data.numbers()[0]).all() and data.left_out['pose'] == 2
    close(data[3].chunk[:, 0], 0.005, atol=1e-12)  # bridged


ONE_FINGER = {'gripper_joints': FINGERS[:1], 'gripper_signs': [1]}


@pytest.mark.parametrize(
    ('options', 'error', 'match'),
    [
        ({'actions': 'wishes'}, ProfileError, 'wishes'),
        ({'instruction': ''}, DataError, 'instruction'),
        ({'profile': ALOHA}, ProfileError, 'joint_positions'),
        ({'no_op': 1.0}, DataError, 'no_op'),
        ({'actions': 'commands'}, DataError, 'twist'),
        ({'topics': {**TOPICS, 'ee_pose': '/nothing'}}, DataError, '/nothing'),
        ({'gripper_closed': 0.04}, ProfileError, 'gripper_closed'),
        ({'max_gap_s': 0}, ProfileError, 'max_gap_s'),
        ({'close_below': 2}, ProfileError, 'thresholds'),
        ({'wiring': {'gripper_joints': ['thumb', 'index']}}, DataError, 'no frames.*thumb'),
        ({'wiring': ONE_FINGER}, ProfileError, 'proprio_dim'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, options, error, match):
    with pytest.raises(error, match=match) as caught:
        source(tmp_path, record(0.3, line), **options)
    assert '\n' not in str(caught.value)


def test_it_opens_by_its_format_with_plain_options(tmp_path):
    path = write(tmp_path / 'bag', record(0.5, line))
    wired = {**OPTIONS, 'wiring': {'rotate_180': ['wrist']}, 'no_op': None}
    for options in (wired, {'instruction': TASK}):  # the latter guesses the topics
        assert len(open_source(Data(format='rosbag', path=path, options=options), LIBERO)) == 10
    with pytest.raises(ProfileError, match='colour'):
        open_source(Data(format='rosbag', path=path, options={'colour': 1}), LIBERO)
