"""``vla-prune record-demo``: usage, exit codes, and what it prints and writes."""

import json

import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from vla_prune_ros import cli
from vla_prune_ros.bags.reader import Bag


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        (['--driver', 'me'], "'me'"),
        (['--storage', 'tape'], "'tape'"),
        (['--episodes', '0'], '--episodes'),
        (['--steps', '0'], '--steps'),
        (['--seed', 'one'], 'one'),
        (['bag'], 'bag'),
    ],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(arguments, word, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['record-demo', *arguments])
    assert end.value.code == 2 and word in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--task', 'juggle'], "task 'juggle' is unknown; choose from pick_red"),
        (['--checkpoint', 'x'], 'a policy has both, the expert has none'),
        (['--driver', 'policy', '--checkpoint', '/nope'], "checkpoint '/nope' is not a folder"),
        (['--out', '{there}'], 'there exists; choose another path'),
        (['--out', '{there}', '--overwrite'], 'there exists and is no bag; choose another path'),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_is_one_line(arguments, words, tmp_path, capsys):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'thesis.txt').touch()
    filled = [a.format(there=tmp_path / 'there') for a in arguments]
    out = [] if '--out' in arguments else ['--out', str(tmp_path / 'bag')]
    assert cli.main(['record-demo', *filled, *out]) == 1
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count('\n') == 1 and printed.out == ''
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['there', 'thesis.txt']


def test_a_bag_is_recorded_and_the_next_command_named(renderer, tmp_path, capsys):
    folder, result = tmp_path / 'new' / 'bag', tmp_path / 'result.json'
    arguments = ['--steps', '2', '--size', '32', '--episodes', '2', '--json', str(result)]
    assert cli.main(['record-demo', '--out', str(folder), *arguments]) == 0
    out = capsys.readouterr().out
    assert "seed 1, 'pick up the red cube': not solved in 2 steps" in out
    assert '/camera/wrist/image_raw' in out and f'next: vla-prune replay {folder}' in out
    said = json.loads(result.read_text())
    assert said['path'] == str(folder) and [e['steps'] for e in said['episodes']] == [2, 2]
    with Bag(folder) as bag:
        assert bag.topics['/ee_pose'].count == 6 == said['topics']['/ee_pose']['count']
