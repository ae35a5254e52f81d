"""A scene and a policy without physics or weights, whose numbers can be worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.records import Inference
from vla_prune_ros.sim.scene import Scene, SceneState

SIDE = 16


class LineScene(Scene):
    """A point that moves along x by ``0.05 * action[0]`` m per step; solved beyond ``goal_m``.

    It starts at ``0.001 * seed``. Joints are those of no known arm, so speed comes from poses.
    """

    control_hz = 20.0
    cameras = ('primary', 'wrist')
    description, task_name = 'line', ''
    names = ('slide', 'finger1', 'finger2')

    def __init__(self, goal_m=10.0, task='pick_red', instruction='pick up the red cube'):
        self.goal_m, self.instruction = goal_m, instruction
        self.task_name = task
        self.calls, self.actions, self.rendered_at, self.wrong = [], [], [], ''
        self.closed = False
        self.x = self.steps = 0

    @property
    def time_s(self):
        return self.steps / self.control_hz

    def reset(self, seed):
        self.calls.append(('reset', seed))
        self.x, self.steps = 0.001 * seed, 0

    def step(self, action):
        self.actions.append(np.array(action))
        self.x += 0.05 * float(action[0])
        self.steps += 1

    def images(self):
        self.rendered_at.append(self.steps)
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[0, 0] = self.steps + 1  # a corner that turning by 180 degrees moves
        return {'primary': picture, 'wrist': picture.copy(), 'behind': picture.copy()}

    def state(self):
        return SceneState(
            ee_position=np.array([self.x, 0.0, 1.0]),
            ee_quat_xyzw=np.array([0.0, 0.0, 0.0, 1.0]),
            joint_names=self.names,
            joint_positions=np.array([self.x, 0.02, -0.02]),
            joint_velocities=np.zeros(3),
        )

    def success(self):
        return self.x > self.goal_m

    def wrong_object(self):
        return self.wrong

    def close(self):
        self.closed = True


class ScriptPolicy:
    """Moves at full speed with the gripper closed, 8 steps a query; keeps half the patches.

    :param limit: queries that it answers before it fails.
    """

    profile = LIBERO
    untrained = False

    def __init__(self, history_s=0.0, refresh_ms=None, value=1.0, limit=None):
        self.statistics = SimpleNamespace(proprio=None)
        self.pruner = SimpleNamespace(name='script', history_s=history_s)
        self.refresh_ms, self.value, self.limit = refresh_ms, value, limit
        self.calls, self.seen, self.hints, self.watched = [], [], [], []

    def reset(self):
        self.calls.append('reset')

    def infer(self, observation, motion=None):
        if self.limit is not None and len(self.seen) >= self.limit:
            raise RuntimeError('out of memory\nand more')
        self.calls.append('infer')
        self.seen.append(observation)
        self.hints.append(motion)
        actions = np.zeros((8, 7))
        actions[:, 0], actions[:, 6] = self.value, 0.0
        kept = {c: np.arange(256) % 2 == 0 for c in self.profile.cameras}
        return Inference(
            actions,
            actions.astype(np.float32),
            kept,
            {},
            'dense' if len(self.seen) == 1 else 'fine',
            {'vision': 1.5, 'language': 2.25, 'total': 4.0},
            {c: np.full((224, 224, 3), 90, np.uint8) for c in self.profile.cameras},
            pruning={'reason': 'first'} if len(self.seen) == 1 else {},
        )

    def watch(self, camera, stamp_ns, frame):
        self.watched.append((camera, stamp_ns, frame))

    def refresh(self, proceed=lambda: True):
        self.calls.append('refresh')
        return self.refresh_ms

    def warm_up(self):
        self.calls.append('warm_up')


@pytest.fixture
def line_scene():
    return LineScene


@pytest.fixture
def script_policy():
    return ScriptPolicy
