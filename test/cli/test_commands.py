"""``vla-prune``: usage, exit codes, one-line errors, and the commands that need no ROS."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vla_prune_ros import __version__, cli
from vla_prune_ros.cli import commands, output
from vla_prune_ros.errors import CheckpointError, VlaPruneError
from vla_prune_ros.model import hub

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


@pytest.mark.parametrize('command', [(name,) for name in commands.COMMANDS] + [
    ('train', name) for name in commands.TRAININGS
], ids=' '.join)  # fmt: skip
def test_every_command_has_help_and_json(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, '--help'])
    text = capsys.readouterr().out
    assert end.value.code == 0 and '--json FILE' in text
    for silent in ('default: None', 'default: False', 'default: ()', '(default: )'):
        assert silent not in text


def test_help_needs_neither_torch_nor_ros():
    code = (
        'import sys; from vla_prune_ros import cli; cli.build_parser().format_help(); '
        'print(sorted({"torch", "rclpy", "cv2", "mujoco"} & set(sys.modules)))'
    )
    done = python('-c', code)
    assert done.stdout.strip() == '[]', done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['--version'])
    assert end.value.code == 0 and capsys.readouterr().out.strip() == __version__


WRONG = {  # arguments -> what the message names
    '': 'COMMAND',
    'fly': "'fly'",
    'demo --episodes 0': '--episodes',
    'demo --steps many': 'many',
    'make-checkpoint': 'folder',
    'bench --pruning': '--pruning',
    'bench --pruning dense --node': 'not allowed with',
    'bench --pruning dense --preset huge': 'huge',
    'bench --pruning dense --queries 0': '--queries',
    'evaluate --workers two': 'two',
    'evaluate --methods': '--methods',
    'record-demo --driver me': "'me'",
    'check': 'checkpoint',
    'check a --head psychic': 'psychic',
    'replay': 'BAG',
    'replay bag --pruning ,': 'name a method',
    'replay bag --workers 0': '--workers',
    'replay bag --actions wishes': "'wishes'",
    'replay bag --period nan': '--period',
    'train': 'KIND',
    'train everything': "'everything'",
    'train reference --corrections 240 -1': '--corrections',
    'train corrections out/lightvla': '--out',
    'train corrections x --out y --episodes 0': '--episodes',
}


@pytest.mark.parametrize('arguments', WRONG)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments.split())
    assert end.value.code == 2 and WRONG[arguments] in capsys.readouterr().err


def test_a_checkpoint_is_made_where_nothing_else_is_and_the_result_written(tmp_path, capsys):
    folder, result = tmp_path / 'checkpoint', tmp_path / 'new' / 'result.json'
    arguments = ['--preset', 'micro', '--json', str(result)]
    assert cli.main(['make-checkpoint', str(folder), *arguments]) == 0
    written = {'folder': str(folder), 'preset': 'micro', 'seed': 0, 'trained': False}
    assert json.loads(result.read_text()) == written
    assert (folder / 'config.json').is_file() and 'untrained' in capsys.readouterr().out
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'thesis.txt').write_text('years of work')
    assert cli.main(['make-checkpoint', str(other), *arguments]) == 1
    assert 'exists and is not a synthetic checkpoint; choose another' in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ['thesis.txt']


@pytest.mark.ros
@pytest.mark.parametrize('command', [('demo',), ('bench', '--node')], ids=lambda c: c[0])
def test_a_missing_checkpoint_is_one_line_before_anything_starts(command, tmp_path):
    pytest.importorskip('rclpy')
    arguments = ['--out', tmp_path] if command[0] == 'demo' else []
    done = python('-m', 'vla_prune_ros.cli', *command, '--checkpoint', '/nope', *arguments)
    assert done.returncode == 1 and done.stdout == ''
    assert "checkpoint '/nope' is not a folder" in done.stderr and done.stderr.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('ending', 'code', 'words'),
    [
        ({'ok': True}, 0, ''),
        ({}, 0, ''),
        ({'ok': False}, 1, ''),
        (VlaPruneError('no arm', 'plug it in'), 1, 'error: no arm; plug it in'),
        (PermissionError(13, 'denied', '/out'), 1, "error: [Errno 13] denied: '/out'"),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
    ids=str,
)
def test_exit_codes(monkeypatch, capsys, tmp_path, ending, code, words):
    def ended(command, console):
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(commands.MakeCheckpoint, 'run', ended)
    assert cli.main(['make-checkpoint', str(tmp_path)]) == code
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == bool(words)


def test_without_ros_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setattr(output, 'find_spec', lambda name: None)
    assert cli.main(['demo']) == 1
    err = capsys.readouterr().err
    assert 'rclpy is not importable; source a ROS 2 distribution' in err
    assert "'vla_prune_ros[ros]'" in err


def test_the_default_policy_is_the_reference_or_else_an_untrained_one(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv('HOME', str(tmp_path))
    console = cli.Console()
    monkeypatch.setattr(hub, 'reference_folder', lambda: tmp_path / 'reference')
    assert output.choose_policy(None, console) == tmp_path / 'reference'
    assert output.choose_policy(str(tmp_path), console) == tmp_path

    def absent():
        raise CheckpointError('the reference policy is not installed', 'train it')

    monkeypatch.setattr(hub, 'reference_folder', absent)
    folder = output.choose_policy(None, console)
    assert 'untrained' in folder.name and folder.is_relative_to(tmp_path)
    assert 'the reference policy is not installed' in capsys.readouterr().out
    made = (folder / 'vla_prune.json').stat().st_mtime_ns  # once, in the user's cache
    assert output.choose_checkpoint(None, 'demo', console) == folder
    assert (folder / 'vla_prune.json').stat().st_mtime_ns == made


def test_options_of_evaluate_become_those_of_the_run(monkeypatch, tmp_path):
    from vla_prune_ros.evaluate.closed_loop import run as closed_loop
    from vla_prune_ros.model.synthetic import make_checkpoint
    from vla_prune_ros.sim.two_cubes import PICK_TASKS, TASKS

    seen = []

    def run(options, on_episode):
        seen.append(options)
        result = SimpleNamespace(rows=[], get=lambda name, default: len(seen) == 1)
        return SimpleNamespace(result=result, episodes={})

    monkeypatch.setattr(closed_loop, 'run_evaluate', run)
    folder = make_checkpoint(tmp_path / 'checkpoint', 'micro')
    assert cli.main(['evaluate', str(folder)]) == 0
    words = '--tasks all --episodes 7 --first-seed 40 --instruction other --no-refresh --threads 2'
    assert cli.main(['evaluate', str(folder), *words.split()]) == 1  # an episode raised
    plain, other = seen
    assert plain.tasks == PICK_TASKS and (plain.episodes, plain.first_seed) == (200, 0)
    assert plain.refresh and plain.instruction == '' and plain.checkpoint == folder
    assert plain.methods[0] == 'dense' and plain.workers == plain.threads == 1
    assert other.tasks == tuple(TASKS) and (other.episodes, other.first_seed) == (7, 40)
    assert not other.refresh and other.instruction == 'other' and other.threads == 2
    # A suite of LIBERO has 50 fixed initial states per task, each of which is run once.
    monkeypatch.setattr(closed_loop, 'task_names', lambda simulator, given: (simulator,))
    assert cli.main(['evaluate', str(folder), '--simulator', 'libero_goal']) == 1
    assert (seen[2].tasks, seen[2].episodes) == (('libero_goal',), 50)


@pytest.fixture
def trained(monkeypatch):
    """The plans, folders and progress of ``train reference``, without training."""
    from vla_prune_ros.sim import rendering
    from vla_prune_ros.train import reference

    seen = []

    def train(plan, out, progress):
        progress.stage('recording demonstrations', 3)
        progress.at(2)
        progress.stage('training towers', 5)
        progress.at(5, 'pointer 0.1')
        seen.append((plan, out))
        return {'history': [{'stage': 'towers'}, {'stage': 'imitation', 'success': {'x': '3/4'}}]}

    monkeypatch.setattr(rendering, 'apply_gl', lambda: 'egl')
    monkeypatch.setattr(reference, 'train_reference', train)
    return seen


def test_options_of_train_become_those_of_the_plan(trained, tmp_path):
    note = tmp_path / 'note.json'
    words = (
        f'--out {tmp_path}/out --work {tmp_path}/work --demonstrations 12 --steps 30 '
        f'--corrections 6 8 --correction-steps 5 --checks 4 --workers 3 --seed 9 --json {note}'
    )
    assert cli.main(['train', 'reference', *words.split()]) == 0
    plan, out = trained[0]
    assert (plan.work, out) == (tmp_path / 'work', tmp_path / 'out')
    assert (plan.demonstrations, plan.first.steps, plan.further.steps) == (12, 30, 5)
    assert (plan.corrections, plan.checks, plan.workers, plan.seed) == ((6, 8), 4, 3, 9)
    assert plan.towers.towers_only and not plan.first.towers_only
    assert plan.further.lr < plan.first.lr
    assert json.loads(note.read_text())['checkpoint'] == str(tmp_path / 'out')


def test_without_options_the_plans_own_numbers_are_taken(trained):
    from vla_prune_ros.train.reference import Plan

    assert cli.main(['train', 'reference']) == 0
    assert cli.main(['train', 'reference', '--corrections']) == 0
    (plain, _), (without, _) = trained
    assert plain == replace(
        Plan(plain.work), workers=plain.workers, seed=plain.seed, device=plain.device
    )
    assert without == replace(plain, corrections=())


def test_where_nothing_renders_training_does_not_begin(trained, monkeypatch, capsys):
    from vla_prune_ros.sim import rendering

    def nothing():
        raise VlaPruneError('no OpenGL backend renders', 'install libegl1')

    monkeypatch.setattr(rendering, 'apply_gl', nothing)
    assert cli.main(['train', 'reference']) == 1
    assert 'no OpenGL backend renders; install' in capsys.readouterr().err and trained == []


def test_a_bag_is_recorded_and_the_next_command_named(renderer, tmp_path, capsys):
    pytest.importorskip('rosbags', reason='needs the extra with rosbags')
    folder, result = tmp_path / 'new' / 'bag', tmp_path / 'result.json'
    arguments = ['--steps', '2', '--size', '32', '--episodes', '2', '--json', str(result)]
    assert cli.main(['record-demo', '--out', str(folder), *arguments]) == 0
    out = capsys.readouterr().out
    assert "seed 1, 'pick up the red cube': not solved in 2 steps" in out
    assert '/camera/wrist/image_raw' in out and f'next: vla-prune replay {folder}' in out
    said = json.loads(result.read_text())
    assert said['path'] == str(folder) and [e['steps'] for e in said['episodes']] == [2, 2]
    from vla_prune_ros.bags.reader import Bag

    with Bag(folder) as bag:
        assert bag.topics['/ee_pose'].count == 6 == said['topics']['/ee_pose']['count']
