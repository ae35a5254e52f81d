"""Labels are what the expert did, by a second book-keeping beside the recorder's.

The scene here has no physics: it logs every action and who gave it. Expected chunks, marks and
frames follow from that log by counting steps. ``test_record_scene.py`` has the real scene.
"""

from itertools import groupby
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.sim.scene import Scene, SceneState
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train import collect as record
from vla_prune_ros.train.collect import CHUNK, MAX_STEPS, Recorder, correct, demonstrate

CUBES = {'red': np.array([0.1, 0.2, 0.8]), 'green': np.array([-0.1, 0.0, 0.8])}
POLICY = 0.77  # a number that only the policy's actions have


class LogScene(Scene):
    """Counts steps; ``log`` holds (action, given by the expert for the episode's own task)."""

    cameras = ('primary', 'wrist')

    def __init__(self, task='pick_red', success_at=None):
        self.own, self.task = TASKS[task], TASKS[task]
        self.success_at, self.closing_at = success_at, set()
        self.log, self.answer = [], None
        self.env = SimpleNamespace(sim=self)

    def reset(self, seed):
        self.log = []

    @property
    def steps(self):
        return len(self.log)

    def expert_action(self):
        """Numbers its answers; closes where it is told to, opens elsewhere."""
        mine = self.task is self.own
        close = self.steps in self.closing_at
        action = np.array([self.steps / 1000, float(mine), 0, 0, 0, 0, 1.0 if close else -1.0])
        self.answer = action, mine
        return action

    def step(self, action):
        expert = self.answer is not None and np.array_equal(self.answer[0], action)
        self.log.append((np.array(action), expert and self.answer[1]))
        self.answer = None

    def success(self):
        return self.success_at is not None and self.steps >= self.success_at

    def images(self):
        return {camera: np.zeros((2, 2, 3), np.uint8) for camera in self.cameras}

    def cube_position(self, colour):
        return CUBES[colour]

    def state(self):
        names = tuple('abc')
        joints = np.array([0.0, 0.03, -0.02])
        place = np.array([self.steps, 0.5, 1.0])
        return SceneState(place, np.array([1.0, 0.0, 0.0, 0.0]), names, joints, joints)


@pytest.fixture(autouse=True)
def _no_physics(monkeypatch):
    """What the recorder would ask the real scene; a projection that names camera and point."""
    monkeypatch.setattr(record, 'expert_action', lambda scene: scene.expert_action())
    monkeypatch.setattr(record, 'compress', lambda picture: b'')
    monkeypatch.setattr(record, 'prepare_image', lambda picture: picture)
    monkeypatch.setattr(record, 'seen_at', lambda sim, name, at: np.array([len(name), at[0]]))


def recorder(scene, seed=0):
    return Recorder(scene, np.random.default_rng(seed))


def frames_of(episode):
    """Step of the scene at each frame: the x of its end effector."""
    return episode.state[:, 0].astype(int).tolist()


def check_against_the_log(scene, episode):
    """Chunk, marks and states of every frame, step by step."""
    for frame, start in enumerate(frames_of(episode)):
        unbroken = True
        for k in range(CHUNK):
            action, expert = scene.log[start + k]
            unbroken = unbroken and expert
            assert episode.valid[frame, k] == unbroken, (frame, k)
            if unbroken:
                want = [*action[:6], 0.0 if action[6] > 0 else 1.0]
                np.testing.assert_array_equal(episode.chunk[frame, k], want)


turn = st.tuples(st.sampled_from(['expert', 'burst', 'lure']), st.integers(1, 13))
runs = st.lists(turn, min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(runs, st.sets(st.integers(0, 80), max_size=40), st.integers(0, 99))
def test_frames_chunks_and_marks_are_those_of_the_log(turns, closing, seed):
    scene = LogScene()
    scene.closing_at = closing
    tape = recorder(scene, seed)
    either, since = True, 0  # steps of the expert since the beginning or the last interruption
    frames = {0: [], 1: []}  # by the step that the recorder began with
    for kind, length in turns:
        before = scene.steps
        if kind == 'expert':
            tape.expert(length)
            for n in range(length):
                for first, found in frames.items():
                    if (since + n) % 2 == (first if either else 0):
                        found.append(before + n)
            since += length
            continue
        tape.burst(length, 1.0) if kind == 'burst' else tape.lure(length)
        if scene.steps > before:  # a lure may give up at once
            either, since = False, 0
    episode = tape.episode()
    if episode is None:
        assert [] in frames.values()
        return
    assert frames_of(episode) in frames.values()
    check_against_the_log(scene, episode)


def test_the_last_chunks_are_whole_because_the_expert_goes_on():
    scene = LogScene(success_at=21)
    tape = recorder(scene)
    assert tape.expert(100)
    assert scene.steps == 21
    episode = tape.episode()
    assert scene.steps == 21 + CHUNK
    assert episode.valid.all() and max(frames_of(episode)) >= 19
    check_against_the_log(scene, episode)


def test_a_frame_holds_what_the_scene_says_then():
    scene = LogScene('stack_green_on_red')
    tape = recorder(scene)
    tape.expert(4)
    episode = tape.episode()
    step = frames_of(episode)[1]
    np.testing.assert_allclose(
        episode.state[1], [step, 0.5, 1.0, np.pi, 0, 0, 0.03, -0.02], atol=1e-12
    )
    hand = np.array([step, 0.5, 1.0])
    for row, colour in enumerate(('green', 'red')):  # the target first
        np.testing.assert_array_equal(episode.offset[1, row], CUBES[colour] - hand)
        names = ('agentview', 'robot0_eye_in_hand')
        np.testing.assert_array_equal(
            episode.seen[1, row], [[len(name), CUBES[colour][0]] for name in names]
        )
    assert (episode.task, episode.sister) == ('stack_green_on_red', 'stack_red_on_green')
    assert len(episode.views) == 2 * len(episode)
    kinds = {'state': (8,), 'chunk': (8, 7), 'valid': (8,), 'seen': (2, 2, 2), 'offset': (2, 3)}
    for name, shape in kinds.items():
        assert getattr(episode, name).shape == (len(episode), *shape)


def test_sisters_exchange_the_cubes():
    for task in TASKS.values():
        name = task.name.replace('red', 'x').replace('green', 'red').replace('x', 'green')
        assert record.sister_of(task).name == name


def test_a_lure_goes_for_the_other_cube_and_never_closes(monkeypatch):
    scene = LogScene()
    scene.closing_at = {7}
    recorder(scene).lure(20)
    assert scene.task is scene.own and scene.steps == 7
    assert all(action[1] == 0.0 and action[6] < 0 and not mine for action, mine in scene.log)
    scene = LogScene('place_green_left')
    recorder(scene).lure(4)
    assert scene.task is scene.own and scene.steps == 4
    monkeypatch.setattr(record, 'expert_action', Mock(side_effect=RuntimeError))
    with pytest.raises(RuntimeError):
        recorder(scene).lure(4)
    assert scene.task is scene.own  # whatever happens


@pytest.mark.parametrize(('task', 'limit'), [('pick_red', 150), ('stack_green_on_red', 260)])
def test_a_demonstration_that_fails_gives_none(task, limit):
    for seed in range(3):
        scene = LogScene(task)
        assert demonstrate(recorder(scene, seed)) is None
        assert sum(mine for _, mine in scene.log) <= limit == MAX_STEPS[task.split('_')[0]]


def test_demonstrations_are_disturbed_and_labels_are_the_experts():
    disturbed = 0
    for seed in range(20):
        scene = LogScene(success_at=70)
        check_against_the_log(scene, demonstrate(recorder(scene, seed)))
        own = [mine for _, mine in scene.log]
        disturbed += not all(own)
        assert sum(own) >= 0.4 * len(own)
    assert disturbed >= 10


def policy(scene):
    """A chunk of random actions that carry a mark."""
    chunk = np.random.default_rng(scene.steps).uniform(-1, 1, (CHUNK, 7))
    chunk[:, 1] = POLICY
    return chunk


@pytest.mark.parametrize('seed', range(6))
def test_corrections_hold_the_experts_answers_alone(seed):
    scene = LogScene()
    episode = correct(recorder(scene, seed), policy)
    own = [action[1] == POLICY for action, _ in scene.log]
    assert not all(own) and episode.valid.any()
    assert not (episode.chunk[episode.valid][:, 1] == POLICY).any()
    check_against_the_log(scene, episode)
    assert own[0]  # the policy begins, so that its own states are labelled
    assert len(own) < MAX_STEPS['pick'] + 5 * CHUNK + 20 + CHUNK
    runs = [len(list(run)) for policys, run in groupby(own) if policys]
    assert all(n % CHUNK == 0 and n <= 5 * CHUNK for n in runs)  # chunks are executed whole


def test_a_policy_that_succeeds_ends_the_correction():
    scene = LogScene(success_at=5)
    assert correct(recorder(scene), policy) is None  # nothing to learn from
    assert scene.steps == 5
    scene = LogScene(success_at=100)
    episode = correct(recorder(scene), policy)
    check_against_the_log(scene, episode)
    assert scene.steps <= 100 + CHUNK
