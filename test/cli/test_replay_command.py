"""``vla-prune replay``: usage, exit codes, what it says of bad input, and what it writes."""

import json
import re
from dataclasses import replace

import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import arm_recording as arm
import bag_writer
from bag_writer import MS, T0

from vla_prune_ros import cli
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.cli.commands import method_names
from vla_prune_ros.model.synthetic import make_checkpoint


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'micro', 'micro')


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    return arm.write(tmp_path_factory.mktemp('bags') / 'good')


@pytest.fixture
def command(checkpoint, tmp_path, capsys):
    """Runs the command; exit code, what it printed, and report.json where it wrote one."""

    def run(*arguments, pruning='dense'):
        words = [str(a) for a in arguments]
        given = ['--checkpoint', str(checkpoint), '--pruning', pruning, '--no-mcap', *words]
        out = [] if '--out' in words else ['--out', str(tmp_path / 'out')]
        code = cli.main(['replay', *given, *out])
        report = tmp_path / 'out' / 'report.json'
        return code, capsys.readouterr(), read(report) if report.exists() else None

    return run


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('dense,specprune', ('dense', 'specprune')),
        (' dense , uniform:128,64,fastv:64', ('dense', 'uniform:128,64', 'fastv:64')),
        ('lightvla@org/name,dense', ('lightvla@org/name', 'dense')),
        ('{name: specprune, budget: [56, 52]},dense',
         ('{name: specprune, budget: [56, 52]}', 'dense')),
        ('/my methods/a.yaml', ('/my methods/a.yaml',)),
    ],
    ids=str,
)  # fmt: skip
def test_commas_stand_between_methods_and_inside_them(text, names):
    assert method_names(text) == names


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--checkpoint', '/nope'], "checkpoint '/nope' is not a folder"),
        (['--pruning', 'dense,fly'], "unknown pruning method 'fly'; use one of"),
        (['--pruning', 'dense,dense'], 'methods repeat: dense dense'),
        (['--pruning', 'dense,lightvla'], 'lightvla fails on such weights'),
        (['--profile', 'aloha'], "profile 'aloha' commands joint_positions"),
        (['--period', '-1'], 'period between queries is -1.0 s'),
        (['--topics', '{file}'], 'topics file '),
        (['--params', '{file}'], 'parameter file '),
        (['--params', '/nope.yaml'], 'parameter file /nope.yaml cannot be read'),
        (['--out', '{file}'], "File exists: '"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_one_line_before_a_bag_is_read(
    command, good, tmp_path, arguments, words
):
    (tmp_path / 'file').write_text('- nothing\n')
    code, said, report = command(good, *[a.format(file=tmp_path / 'file') for a in arguments])
    assert code == 1 and report is None and said.out == ''
    assert words in said.err and said.err.count('\n') == 1


def test_a_folder_without_bags_is_said(command, tmp_path):
    (tmp_path / 'empty').mkdir()
    code, said, report = command(tmp_path / 'empty')
    assert (code, report) == (1, None)
    assert said.err == f'error: no bags at {tmp_path}/empty; give a bag, or a folder with some\n'


# --- what it writes -----------------------------------------------------------------------------


def test_report_page_and_predictions_of_two_bags(checkpoint, tmp_path, capsys):
    """The wrist camera of the second bag stops half-way: fewer queries, all answered."""
    folder, out, result = tmp_path / 'bags', tmp_path / 'out', tmp_path / 'new' / 'result.json'
    rows = arm.rows(seed=1)
    stop = T0 + 6 * arm.FRAME_MS * MS
    arm.write(folder / 'whole')
    bag_writer.write(folder / 'half', [r for r in rows if r[0] != arm.WRIST or r[1] < stop])
    words = f'{folder} --checkpoint {checkpoint} --pruning dense,uniform:64 --out {out}'
    assert cli.main(['replay', *words.split(), '--json', str(result)]) == 0
    said = capsys.readouterr().out

    report = read(out / 'report.json')
    assert report == read(result) and report['ok'] and report['problems'] == []
    names = [bag['name'] for bag in report['bags']]
    assert [name.split('-')[0] for name in names] == ['half', 'whole']
    assert [bag['queries'] for bag in report['bags']] == [3, 6]
    assert 'replay of 2 bags, 9 queries, UNTRAINED' in said
    guess = f'primary = {arm.PRIMARY}, wrist = {arm.WRIST}'
    assert said.count(guess) == 1  # of both, for both are alike
    assert (
        f'{out}: report.html, report.json, predictions/{names[0]}, predictions/{names[1]}' in said
    )

    page = (out / 'report.html').read_text()
    for word in (*names, 'uniform:64', 'UNTRAINED', arm.INSTRUCTION, arm.WRIST):
        assert word in page
    sources = re.findall(r'\b(?:src|href)="([^"]*)', page)
    assert all(source.startswith(('data:image/', '#bag-')) for source in sources)
    assert len([s for s in sources if s.startswith('data:image/jpeg')]) > 10

    for bag in report['bags']:
        with Bag(out / 'predictions' / bag['name']) as predictions:
            counts = {name: topic.count for name, topic in predictions.topics.items()}
        assert counts['/replay/dense/action_chunk'] == bag['queries']
        assert counts['/replay/uniform_64/action_chunk'] == bag['queries']
        assert counts['/replay/recorded/action_chunk'] and predictions.lost == []


def test_methods_with_commas_run_at_every_pair_of_images(command, good):
    pruning = 'dense,uniform:128,64,{name: specprune, budget: [56, 52]}'
    code, _, report = command(good, '--period', '0', pruning=pruning)
    dense, uniform, other = report['rows']
    assert (code, uniform['method'], uniform['visual_tokens']) == (0, 'uniform:128,64', 192)
    assert f'dense,uniform:128,64,{other["method"]}' == pruning and other['visual_tokens'] < 512
    assert dense['queries'] == 12 and other['versus_dense']['steps'] == 12 * 8


# --- bad input ----------------------------------------------------------------------------------


def problems(report):
    return [(problem['code'], problem['text']) for problem in report['problems']]


def test_a_bag_that_is_not_there(command, tmp_path):
    code, said, report = command(tmp_path / 'gone')
    line = f'bag {tmp_path}/gone cannot be read (No such file or directory); check the path'
    assert code == 1 and not report['ok'] and problems(report) == [('unread', line)]
    assert (tmp_path / 'out' / 'report.html').is_file()


def test_no_instruction(command, tmp_path):
    rows = [row for row in arm.rows() if row[0] != arm.TASK]
    bag = bag_writer.write(tmp_path / 'mute', rows)
    code, _, report = command(bag)
    assert code == 1
    assert problems(report) == [('no_instruction', 'the bag names no task; give --instruction')]
    code, _, report = command(bag, '--instruction', 'open the drawer')
    assert code == 0 and report['bags'][0]['instructions'] == ['open the drawer']
    assert report['rows'][0]['queries'] == 6


@pytest.mark.parametrize(
    ('topic', 'change', 'reason', 'text'),
    [
        (arm.PRIMARY, {'encoding': 'yuv9'}, 'encoding', "unknown image encoding 'yuv9'"),
        (arm.JOINTS, {'name': ['a', 'b']}, 'missing_joint', "lacks 'panda_finger_joint1'"),
    ],
    ids=['encoding', 'joints'],
)
def test_unusable_messages_are_refused_as_the_node_does(
    command, tmp_path, topic, change, reason, text
):
    """From 500 ms on, which is half of six queries."""
    rows = [
        (name, at, replace(message, **change))
        if name == topic and at >= T0 + 500 * MS
        else (name, at, message)
        for name, at, message in arm.rows()
    ]
    code, said, report = command(bag_writer.write(tmp_path / 'bad', rows))
    row = report['rows'][0]
    assert (code, row['refused'], row['refusals']) == (1, 3, {reason: 3})
    (problem,) = [words for code, words in problems(report) if code == 'refused']
    assert problem.startswith('dense: 3 of 6 queries were refused: ') and text in problem
    assert re.search(rf'refused {reason} 3', said.out)
    assert row['versus_recorded']['steps'] > 0  # the first three were answered
