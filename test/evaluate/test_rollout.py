"""One episode: the protocol, stamps, speed, frames between queries, and what is recorded.

Expected numbers follow from the scene on a line: 0.05 m per step of 0.05 s, so 1 m/s, and chunks
of 8 steps.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_prune_ros.errors import ActionRefused, InputRefused, VlaPruneError
from vla_prune_ros.evaluate.closed_loop.driving import HAND_LINK, PANDA_URDF, scene_motion
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeResult
from vla_prune_ros.evaluate.closed_loop.rollout import run_episode
from vla_prune_ros.sim.scene import Scene

ROOT = Path(__file__).resolve().parents[2]
SECOND = 1_000_000_000
STEP = 50_000_000


def test_chunks_are_executed_whole_until_the_step_that_succeeds(line_scene, script_policy):
    scene, policy = line_scene(goal_m=0.97), script_policy()  # 0.05 * 20 > 0.97 > 0.05 * 19
    result = run_episode(policy, scene, 0, 100)
    assert (result.success, result.steps, len(scene.actions)) == (True, 20, 20)
    assert [q.step for q in result.queries] == [0, 8, 16]
    assert result.moved_m == pytest.approx(1.0)
    assert policy.calls == ['reset', *['infer', 'refresh'] * 3]
    assert scene.calls == [('reset', 0)]


def test_a_chunk_is_cut_at_the_limit(line_scene, script_policy):
    scene = line_scene()
    result = run_episode(script_policy(), scene, 7, 19)
    assert (result.success, result.steps, len(scene.actions)) == (False, 19, 19)
    assert result.seed == 7 and len(result.queries) == 3


def test_the_gripper_is_turned_into_the_simulators_convention(line_scene, script_policy):
    scene = line_scene()
    run_episode(script_policy(), scene, 0, 8)
    np.testing.assert_array_equal(scene.actions[0], [1, 0, 0, 0, 0, 0, 1])  # 0 closed -> +1


def test_stamps_are_simulated_time_from_one_second_on(line_scene, script_policy):
    policy = script_policy()
    run_episode(policy, line_scene(), 0, 24)
    assert [o.stamp_ns for o in policy.seen] == [SECOND + 8 * i * STEP for i in range(3)]


def test_speed_is_that_of_the_end_effector_at_the_query(line_scene, script_policy):
    policy = script_policy(value=0.5)
    result = run_episode(policy, line_scene(), 0, 24)
    assert policy.hints[0] is None and result.queries[0].motion_m_s is None
    assert [q.motion_m_s for q in result.queries[1:]] == pytest.approx([0.5, 0.5])
    assert result.motion_source == policy.hints[1].source == 'pose'


def test_a_pruner_that_compares_frames_is_shown_every_step(line_scene, script_policy):
    policy, scene = script_policy(history_s=0.4), line_scene()
    run_episode(policy, scene, 0, 19)
    assert scene.rendered_at == list(range(20))
    for camera in ('primary', 'wrist'):
        shown = [(stamp, frame) for c, stamp, frame in policy.watched if c == camera]
        assert [stamp for stamp, _ in shown] == [SECOND + i * STEP for i in range(20)]
        assert [frame()[-1, -1, 0] for _, frame in shown] == list(range(1, 21))
    assert {c for c, *_ in policy.watched} == {'primary', 'wrist'}


def test_for_the_others_only_queries_are_rendered(line_scene, script_policy):
    policy, scene = script_policy(), line_scene()
    run_episode(policy, scene, 0, 19)
    assert scene.rendered_at == [0, 8, 16] and policy.watched == []
    assert [o.images['primary'][-1, -1, 0] for o in policy.seen] == [1, 9, 17]


def test_refreshes_are_recorded_apart_and_can_be_left_out(line_scene, script_policy):
    with_it = run_episode(script_policy(refresh_ms=12.5), line_scene(), 0, 24)
    assert with_it.refresh_ms == (12.5,) * 3
    assert [q.total_ms for q in with_it.queries] == [4.0] * 3
    policy = script_policy(refresh_ms=12.5)
    assert run_episode(policy, line_scene(), 0, 24, refresh=False).refresh_ms == ()
    assert 'refresh' not in policy.calls
    assert run_episode(script_policy(), line_scene(), 0, 24).refresh_ms == ()


def test_other_words_are_cleaned_and_told(line_scene, script_policy):
    policy = script_policy()
    result = run_episode(policy, line_scene(), 0, 16, instruction='  Pick up the GREEN cube. ')
    assert [o.instruction for o in policy.seen] == ['pick up the green cube'] * 2
    assert result.instruction == 'pick up the green cube' and result.task == 'pick_red'
    with pytest.raises(InputRefused, match='instruction is empty'):
        run_episode(policy, line_scene(), 0, 16, instruction=' . ')


def test_what_is_recorded_of_a_query(line_scene, script_policy):
    result = run_episode(script_policy(), line_scene(), 0, 16)
    first, second = result.queries
    assert (first.mode, first.visual_tokens, first.reason) == ('dense', 256, 'first')
    assert (second.mode, second.reason) == ('fine', '')
    assert dict(first.stages_ms) == {'vision': 1.5, 'language': 2.25}
    assert result.visual_all == 512
    assert (result.scene, result.generated_assets) == ('line', False)


def test_a_scene_of_generated_assets_is_marked(line_scene, script_policy):
    scene = line_scene()
    scene.generated_assets = True
    assert run_episode(script_policy(), scene, 0, 8).generated_assets is True


def test_the_wrong_object_is_recorded_where_the_scene_tells(line_scene, script_policy):
    scene = line_scene()
    scene.wrong = 'pushed'
    assert run_episode(script_policy(), scene, 0, 8).wrong_object == 'pushed'

    class Silent(line_scene):
        wrong_object = Scene.wrong_object

    assert run_episode(script_policy(), Silent(), 0, 8).wrong_object == ''


def test_every_query_is_reported_with_what_was_seen(line_scene, script_policy):
    reported = []
    policy = script_policy()
    run_episode(policy, line_scene(), 0, 24, on_query=lambda *pair: reported.append(pair))
    assert [seen for seen, _ in reported] == policy.seen
    assert [answer.mode for _, answer in reported] == ['dense', 'fine', 'fine']


def test_actions_that_are_not_finite_never_reach_the_scene(line_scene, script_policy):
    scene = line_scene()
    with pytest.raises(ActionRefused, match='is nan'):
        run_episode(script_policy(value=np.nan), scene, 0, 8)
    assert scene.actions == []


def test_a_result_survives_json(line_scene, script_policy):
    result = run_episode(script_policy(refresh_ms=1.0), line_scene(), 3, 16)
    assert EpisodeResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    with pytest.raises(VlaPruneError, match='another version'):
        EpisodeResult.from_json({'queries': [], 'refresh_ms': []})
    with pytest.raises(VlaPruneError, match='speed'):
        EpisodeResult.from_json({'queries': [{'speed': 1}], 'refresh_ms': []})


def test_step_limits(line_scene):
    assert line_scene().step_limit == 150
    other = line_scene(task='stack_red_on_green')
    assert other.step_limit == 250
    other.max_steps = 220
    assert other.step_limit == 220


def test_without_a_limit_the_episodes_own_holds(line_scene, script_policy):
    """A scene of several tasks has that of the task to which it was reset."""

    class Turns(line_scene):
        def reset(self, seed):
            super().reset(seed)
            self.max_steps = 10 + seed

    assert [run_episode(script_policy(), Turns(), seed).steps for seed in (0, 3)] == [10, 13]


def test_the_arm_is_that_of_the_parameter_file():
    text = (ROOT / 'config' / 'libero.yaml').read_text(encoding='utf-8')
    parameters = yaml.safe_load(text)['/**/vla_policy']['ros__parameters']
    assert (parameters['urdf'], parameters['ee_link']) == (PANDA_URDF, HAND_LINK)
    assert parameters['motion_source'] == 'joint_velocities'


def test_without_pinocchio_poses_are_compared(line_scene, monkeypatch):
    from vla_prune_ros.evaluate.closed_loop import driving as module

    monkeypatch.setattr(module, '_jacobian', lambda: None)
    scene = line_scene()
    scene.names = tuple(f'panda_joint{i}' for i in range(1, 8))
    assert scene_motion(scene.state()).name == 'pose'


def test_importing_it_loads_neither_torch_nor_a_simulator():
    code = (
        'import sys, vla_prune_ros.evaluate.closed_loop.rollout; '
        'print(sorted({"torch", "mujoco", "robosuite", "scipy", "cv2"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == '[]'


def test_in_the_two_cube_scene_speed_comes_from_the_joints(script_policy, renderer):
    """The arm moves along x at a known command; MuJoCo's own poses say how fast it was."""
    pytest.importorskip('pinocchio', reason='the motion extra is not installed')
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(image_size=32, tasks=('place_red_left',))
    try:
        result = run_episode(script_policy(value=0.4), scene, 5, 24)
        assert result.motion_source == 'joint_velocities' and result.task == 'place_red_left'
        assert result.queries[0].motion_m_s < 1e-3  # at rest after the reset
        mean_m_s = result.moved_m / 24 * 20
        assert result.queries[2].motion_m_s == pytest.approx(mean_m_s, rel=0.5)
        again = run_episode(script_policy(value=0.4), scene, 5, 24)
        assert again == result
    finally:
        scene.close()
