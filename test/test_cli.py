"""``vla-prune``: usage, exit codes, one-line errors, and the commands that need no ROS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla_prune_ros import __version__, cli
from vla_prune_ros.cli import common
from vla_prune_ros.errors import VlaPruneError

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ('demo', 'make-checkpoint', 'bench')


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'vla_prune_ros.cli', *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


@pytest.mark.parametrize('command', COMMANDS)
def test_help_names_every_option_and_its_default(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, '--help'])
    text = capsys.readouterr().out
    assert end.value.code == 0 and '--json FILE' in text
    assert 'default' in text


def test_help_needs_neither_torch_nor_ros():
    code = (
        'import sys; from vla_prune_ros import cli; cli.build_parser().format_help(); '
        'print(sorted({"torch", "rclpy", "cv2", "mujoco"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.stdout.strip() == '[]', done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['--version'])
    assert end.value.code == 0 and capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        ([], 'COMMAND'),
        (['fly'], "'fly'"),
        (['demo', '--episodes', '0'], 'use 1 or more'),
        (['demo', '--steps', '-3'], 'use 1 or more'),
        (['demo', '--steps', 'many'], 'many'),
        (['make-checkpoint'], 'folder'),
        (['make-checkpoint', 'x', '--preset', 'huge'], 'huge'),
        (['bench', '--pruning'], '--pruning'),
        (['bench', '--pruning', 'dense', '--node'], 'not allowed with'),
        (['bench', '--pruning', 'dense', '--preset', 'huge'], 'huge'),
        (['bench', '--pruning', 'dense', '--queries', '0'], 'use 1 or more'),
    ],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(arguments, word, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2 and word in capsys.readouterr().err


def test_a_checkpoint_is_made_and_the_result_written(tmp_path, capsys):
    folder, result = tmp_path / 'checkpoint', tmp_path / 'new' / 'result.json'
    arguments = ['make-checkpoint', str(folder), '--preset', 'micro', '--json', str(result)]
    assert cli.main(arguments) == 0
    assert json.loads(result.read_text()) == {
        'folder': str(folder),
        'preset': 'micro',
        'seed': 0,
        'trained': False,
    }
    assert (folder / 'config.json').is_file() and 'untrained' in capsys.readouterr().out


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('years of work')
    assert cli.main(['make-checkpoint', str(tmp_path), '--preset', 'micro']) == 1
    assert 'exists and is not a synthetic checkpoint; choose another' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


@pytest.mark.ros
@pytest.mark.parametrize('command', [('demo',), ('bench', '--node')], ids=lambda c: c[0])
def test_a_missing_checkpoint_is_one_line_before_anything_starts(command, tmp_path):
    pytest.importorskip('rclpy')
    arguments = ['--out', tmp_path] if command[0] == 'demo' else []
    done = run(*command, '--checkpoint', '/nope', *arguments)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr == (
        "error: checkpoint '/nope' is not a folder; give the folder that holds config.json and "
        'the weights\n'
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('ending', 'code', 'words'),
    [
        ({'ok': True}, 0, ''),
        ({}, 0, ''),
        ({'ok': False}, 1, ''),
        (
            VlaPruneError('the arm is unplugged', 'plug it in'),
            1,
            'error: the arm is unplugged; plug',
        ),
        (
            PermissionError(13, 'Permission denied', '/out'),
            1,
            'error: [Errno 13] Permission denied',
        ),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
    ids=str,
)
def test_exit_codes(monkeypatch, capsys, tmp_path, ending, code, words):
    def ended(options, console):
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(cli, '_make_checkpoint', ended)
    assert cli.main(['make-checkpoint', str(tmp_path)]) == code
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == bool(words)


def test_without_ros_the_mend_is_said(monkeypatch, capsys):
    monkeypatch.setattr(common, 'find_spec', lambda name: None)
    assert cli.main(['demo']) == 1
    err = capsys.readouterr().err
    assert 'rclpy is not importable; source a ROS 2 distribution' in err
    assert "'vla_prune_ros[ros]'" in err


def test_the_default_checkpoint_is_made_once_in_the_users_cache(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    console = cli.Console()
    folder = common.choose_checkpoint(None, 'micro', console)
    assert folder.is_relative_to(tmp_path) and 'untrained' in folder.name
    stamp = (folder / 'vla_prune.json').stat().st_mtime_ns
    assert common.choose_checkpoint(None, 'micro', console) == folder
    assert (folder / 'vla_prune.json').stat().st_mtime_ns == stamp
