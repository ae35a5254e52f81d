"""One episode, on a line with 0.05 m per step of 0.05 s, so 1 m/s, and chunks of 8 steps;
orientation comes from SciPy."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from vla_prune_ros.errors import ActionRefused, InputRefused, VlaPruneError
from vla_prune_ros.evaluate.closed_loop import rollout as module
from vla_prune_ros.evaluate.closed_loop.rollout import (
    HAND_LINK,
    PANDA_URDF,
    choose_instruction,
    observe,
    proprio,
    run_episode,
    scene_motion,
    swapped,
)
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.sim.scene import Scene, SceneState
from vla_prune_ros.sim.two_cubes import TASKS

ROOT = Path(__file__).resolve().parents[3]
SECOND = 1_000_000_000
STEP = 50_000_000
HAND_DOWN = np.array([np.pi, 0.0, 0.0])

# --- the episode ---------------------------------------------------------------------------------


def test_chunks_are_executed_whole_until_the_step_that_succeeds(line_scene, script_policy):
    scene, policy = line_scene(goal_m=0.97), script_policy()  # 0.05 * 20 > 0.97 > 0.05 * 19
    result = run_episode(policy, scene, 0, 100)
    assert (result.success, result.steps, len(scene.actions)) == (True, 20, 20)
    assert [q.step for q in result.queries] == [0, 8, 16]
    assert result.moved_m == pytest.approx(1.0)
    assert policy.calls == ['reset', *['infer', 'refresh'] * 3]
    assert scene.calls == [('reset', 0)]
    assert [o.stamp_ns for o in policy.seen] == [SECOND + 8 * i * STEP for i in range(3)]
    np.testing.assert_array_equal(scene.actions[0], [1, 0, 0, 0, 0, 0, 1])  # 0 closed -> +1


def test_step_limits_are_those_of_the_episode(line_scene, script_policy):
    """A scene of several tasks has that of the task to which it was reset."""
    assert line_scene().step_limit == 150
    assert line_scene(task='stack_red_on_green').step_limit == 250

    class Turns(line_scene):
        def reset(self, seed):
            super().reset(seed)
            self.max_steps = 10 + seed

    for seed in (0, 3):
        result = run_episode(script_policy(), scene := Turns(), seed)
        assert (result.seed, result.steps, len(scene.actions)) == (seed, 10 + seed, 10 + seed)
        assert not result.success and len(result.queries) == 2


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
    policy = script_policy(refresh_ms=12.5)
    result = run_episode(policy, line_scene(), 0, 24)
    assert result.refresh_ms == (12.5,) * 3 and [q.total_ms for q in result.queries] == [4.0] * 3
    policy.calls.clear()
    assert run_episode(policy, line_scene(), 0, 24, refresh=False).refresh_ms == ()
    assert 'refresh' not in policy.calls
    assert run_episode(script_policy(), line_scene(), 0, 24).refresh_ms == ()


def test_another_instruction_is_cleaned_and_given_to_the_policy(line_scene, script_policy):
    policy = script_policy()
    result = run_episode(policy, line_scene(), 0, 16, instruction='  Pick up the GREEN cube. ')
    assert [o.instruction for o in policy.seen] == ['pick up the green cube'] * 2
    assert result.instruction == 'pick up the green cube' and result.task == 'pick_red'
    with pytest.raises(InputRefused, match='instruction is empty'):
        run_episode(policy, line_scene(), 0, 16, instruction=' . ')


def test_what_is_recorded_and_reported_of_a_query(line_scene, script_policy):
    reported, policy = [], script_policy()
    result = run_episode(policy, line_scene(), 0, 16, on_query=lambda *p: reported.append(p))
    first, second = result.queries
    assert (first.mode, first.visual_tokens, first.reason) == ('dense', 256, 'first')
    assert (second.mode, second.reason) == ('fine', '')
    assert dict(first.stages_ms) == {'vision': 1.5, 'language': 2.25}
    assert result.visual_all == 512
    assert (result.scene, result.generated_assets) == ('line', False)
    assert [seen for seen, _ in reported] == policy.seen
    assert [answer.mode for _, answer in reported] == ['dense', 'fine']


def test_generated_assets_and_wrong_objects_are_recorded(line_scene, script_policy):
    scene = line_scene()
    scene.wrong, scene.generated_assets = 'pushed', True
    result = run_episode(script_policy(), scene, 0, 8)
    assert (result.wrong_object, result.generated_assets) == ('pushed', True)

    class Silent(line_scene):
        wrong_object = Scene.wrong_object

    assert run_episode(script_policy(), Silent(), 0, 8).wrong_object == ''


def test_actions_that_are_not_finite_never_reach_the_scene(line_scene, script_policy):
    scene = line_scene()
    with pytest.raises(ActionRefused, match='is nan'):
        run_episode(script_policy(value=np.nan), scene, 0, 8)
    assert scene.actions == []


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


def test_the_arm_is_that_of_the_parameter_file():
    text = (ROOT / 'config' / 'libero.yaml').read_text(encoding='utf-8')
    parameters = yaml.safe_load(text)['/**/vla_policy']['ros__parameters']
    assert (parameters['urdf'], parameters['ee_link']) == (PANDA_URDF, HAND_LINK)
    assert parameters['motion_source'] == 'joint_velocities'


def test_without_pinocchio_poses_are_compared(line_scene, monkeypatch):
    monkeypatch.setattr(module, '_jacobian', lambda: None)
    scene = line_scene()
    scene.names = tuple(f'panda_joint{i}' for i in range(1, 8))
    assert scene_motion(scene.state()).name == 'pose'


def test_importing_it_loads_neither_torch_nor_a_simulator():
    code = (
        'import sys, vla_prune_ros.evaluate.closed_loop.rollout; '
        'print(sorted({"torch", "mujoco", "robosuite"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == '[]'


# --- what the policy sees ------------------------------------------------------------------------


def state(quat=(1.0, 0.0, 0.0, 0.0)):
    names, positions = ('joint', 'finger1', 'finger2'), np.array([0.7, 0.039, -0.038])
    return SceneState(np.array([-0.1, 0.2, 1.03]), np.array(quat), names, positions, np.zeros(3))


@pytest.mark.parametrize('tilt', [(0.0, 0.0), (0.3, -0.2)])
@pytest.mark.parametrize('sign', [1, -1])
def test_the_state_is_liberos_on_the_branch_of_the_statistics(tilt, sign):
    rotation = Rotation.from_rotvec(HAND_DOWN) * Rotation.from_rotvec([*tilt, 0.1])
    got = proprio(state(sign * rotation.as_quat()), HAND_DOWN)
    assert got.shape == (8,) and got.dtype == np.float64
    np.testing.assert_array_equal(got[:3], [-0.1, 0.2, 1.03])
    np.testing.assert_array_equal(got[6:], [0.039, -0.038])
    assert (Rotation.from_rotvec(got[3:6]).inv() * rotation).magnitude() < 1e-6
    assert np.linalg.norm(got[3:6] - HAND_DOWN) < np.pi


def observed(mean, **changes):
    """What a policy with this mean state sees of a scene with the hand down."""
    bounds = None if mean is None else SimpleNamespace(mean=np.asarray(mean))
    policy = SimpleNamespace(
        profile=replace(LIBERO, **changes), statistics=SimpleNamespace(proprio=bounds)
    )
    images = {'primary': np.zeros((2, 2, 3), np.uint8), 'wrist': np.ones((2, 2, 3), np.uint8)}
    images['primary'][0, 0] = 9
    scene = SimpleNamespace(state=state, instruction='pick up the red cube')
    return observe(policy, scene, images, 17)


def test_an_observation_holds_the_scene_of_this_instant():
    seen = observed([0, 0, 0, *HAND_DOWN, 0, 0])
    assert (seen.instruction, seen.stamp_ns) == ('pick up the red cube', 17)
    assert seen.images['primary'][1, 1, 0] == 9 and seen.images['wrist'].all()
    np.testing.assert_allclose(seen.proprio[3:6], HAND_DOWN, atol=1e-9)
    flipped = observed([0, 0, 0, *-HAND_DOWN, 0, 0])
    np.testing.assert_allclose(flipped.proprio[3:6], -HAND_DOWN, atol=1e-9)
    assert observed(None, proprio_dim=0, proprio_kind='none').proprio is None


# --- instructions --------------------------------------------------------------------------------


def test_the_sister_of_every_task_is_a_task():
    known = {task.instruction for task in TASKS.values()}
    for task in TASKS.values():
        other = swapped(task.instruction)
        assert other in known and other != task.instruction
        assert swapped(other) == task.instruction


def test_instructions_are_the_tasks_own_its_sisters_or_given():
    own = 'pick up the red cube'
    assert choose_instruction('', own) is None
    assert choose_instruction('other', own) == 'pick up the green cube'
    assert choose_instruction(' Wave. ', own) == 'wave'
    with pytest.raises(VlaPruneError, match='instruction is empty'):
        choose_instruction('...', own)
    assert swapped('a green cube, covered by a red one') == 'a red cube, covered by a green one'
    with pytest.raises(VlaPruneError, match='names no colour'):
        swapped('open the covered drawer')
