"""The result of a replay out of recordings and answers that are made up, with offsets and times
whose figures are known. Keys are those of the result's description in docs/replay.md."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import replay_result as sample

from vla_prune_ros.evaluate.replay import report
from vla_prune_ros.evaluate.replay.results import BagAnswers, ResultBuilder

T0, MS, MM = sample.T0, sample.MS, 1e-3
DT, K = 0.05, 8
AXES = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz')


def documented(name):
    """Keys of that row of the table in docs/replay.md."""
    page = Path(__file__).parents[3] / 'docs' / 'replay.md'
    (line,) = (x for x in page.read_text().splitlines() if x.startswith(f'| `{name}` | '))
    return set(re.findall(r'`(\w+)`', line.split('|', 2)[2]))


def actions(count, translation_mm=(0, 0, 0), gripper=1.0):
    """float64 (count, K, 7): every step the same; ``gripper``: one number, or one per step."""
    out = np.zeros((count, K, 7))
    out[..., :3] = np.array(translation_mm) * MM
    out[..., 6] = gripper
    return out


def recording(count, acted=None, valid=None, **changes):
    """Queries 200 ms apart, received 8 ms after their stamps, in a bag that begins 100 ms before
    the first and lasts two seconds."""
    instants = [sample.instant(i) for i in range(count)]
    if acted is not None:
        known = np.ones((count, K), bool) if valid is None else valid
        changes = {'source': 'twist', 'actions': acted, 'valid': known, **changes}
    return sample.recording(
        instants,
        topics={'primary': '/cam', 'twist': '/cmd'},
        guessed=True,
        there={'/cam': ('sensor_msgs/msg/Image', 7), '/tf': ('tf2_msgs/msg/TFMessage', 9)},
        span_ns=(T0 - 100 * MS, T0 + 1900 * MS),
        losses={'skew': 2},
        problems=(('unstamped', '/cam: no stamps'),),
        **changes,
    )


def answers(chunks, **changes):
    """One answer per chunk, 10, 20, ... ms each, with 100 tokens."""
    kept = {'primary': np.arange(256) < 70, 'wrist': np.arange(256) < 30}
    record = {'mode': 'fine', 'visual_tokens': 100, **changes}
    return [
        sample.query(i, chunk, kept=kept, **{'total_ms': 10.0 * (i + 1), **record})
        for i, chunk in enumerate(chunks)
    ]


def refused(query, why, **record):
    """Before the policy was asked; with ``mode`` and so on given, by the guard."""
    return sample.query(query.number, refusal=why, kept=query.kept if record else {}, **record)


def build(*bags, methods=('dense', 'specprune'), dense='dense'):
    """Rows and bags as report.json has them."""
    made = built(*bags, methods=methods, dense=dense)
    return json.loads(json.dumps(made.to_json(), allow_nan=False))  # no numpy number


def built(*bags, methods=('dense', 'specprune'), dense='dense'):
    builder = ResultBuilder(bags, methods=methods, dense=dense, dt_s=DT, chunk=K)
    return replace(sample.result(bags=[]), rows=builder.rows(), bags=builder.bags())


def bag(found, name='kitchen', **made):
    return BagAnswers(name, Path('bags') / name, found, made)


def flat(value):
    return pytest.approx(dict.fromkeys(('mean', 'p50', 'p95', 'max'), value))


def flips(here, there, matched, apart_ms):
    offset = pytest.approx({'mean': apart_ms, 'p95': apart_ms})
    return {'here': here, 'there': there, 'matched': matched, 'offset_ms': offset}


def both(p50, p95):
    return pytest.approx({'p50': p50, 'p95': p95})


@pytest.fixture
def kitchen():
    """Three queries: specprune is (3, 4, 0) mm from dense, dense (0, 0, -12) mm from what was
    done, hence specprune 13 mm."""
    return bag(
        recording(3, actions(3, (2, 0, 12))),
        dense=answers(actions(3, (2, 0, 0)), mode='dense'),
        specprune=answers(actions(3, (5, 4, 0))),
    )


def test_rows_of_known_offsets(kitchen):
    dense, pruned = build(kitchen)['rows']
    assert (dense['method'], pruned['method']) == ('dense', 'specprune')
    assert dense['versus_dense'] is None
    found = pruned['versus_dense']
    assert found['steps'] == 24
    assert (found['translation_mm'], found['end_mm']) == (flat(5.0), flat(40.0))
    assert found['axes']['delta_y'] == pytest.approx({'mean_abs': 4.0, 'bias': 4.0})
    assert found['sign_agreement'] == {**dict.fromkeys(AXES), 'delta_x': 1.0}
    assert dense['versus_recorded']['translation_mm'] == flat(12.0)
    assert dense['versus_recorded']['axes']['delta_z']['bias'] == pytest.approx(-12.0)
    assert pruned['versus_recorded']['translation_mm'] == flat(13.0)
    assert pruned['versus_recorded']['end_mm'] == flat(104.0)
    none = {'here': 0, 'there': 0, 'matched': 0, 'offset_ms': None}
    assert found['flips'] == pruned['versus_recorded']['flips'] == none
    none = dict.fromkeys(('jump_mm', 'inside_mm', 'jerk_m_s3'), both(0.0, 0.0))
    assert pruned['borders'] == {'borders': 2, **none}
    assert (pruned['queries'], pruned['refused'], pruned['refusals']) == (3, 0, {})
    assert (pruned['visual_tokens'], pruned['modes']) == (100.0, {'fine': 3})
    assert pruned['latency_ms'] == both(20.0, 29.0)
    assert pruned['refresh_ms'] is None


def test_refused_queries_are_counted_and_compared_with_nothing(kitchen):
    """One never reached the policy, one was stopped by the guard: that one has a time, tokens and
    a mode. One is left to compare, until dense refuses that."""
    dense, pruned = kitchen.answers['dense'], kitchen.answers['specprune']
    pruned[0] = refused(pruned[0], 'corrupt: no image')
    pruned[1] = refused(
        pruned[1], 'limit_translation: far', mode='coarse', visual_tokens=100, total_ms=80.0
    )
    row = build(replace(kitchen, answers={'specprune': [pruned[0], *pruned[:2]]}))['rows'][1]
    assert (row['refused'], row['refusals']) == (3, {'corrupt': 2, 'limit_translation': 1})
    found = build(kitchen)
    row = found['rows'][1]
    assert (row['queries'], row['refused']) == (3, 2)
    assert row['refusals'] == {'corrupt': 1, 'limit_translation': 1}
    assert row['modes'] == {'coarse': 1, 'fine': 1} and row['visual_tokens'] == 100.0
    assert row['latency_ms'] == both(55.0, 30 + 0.95 * 50)
    assert row['versus_dense']['steps'] == row['versus_recorded']['steps'] == 8
    assert row['borders']['borders'] == 0
    assert found['bags'][0]['series']['specprune'] == {
        't_s': pytest.approx([0.108, 0.308, 0.508]),
        'latency_ms': [None, 80.0, 30.0],
        'visual_tokens': [None, 100, 100],
        'mode': ['', 'coarse', 'fine'],
        'speed_m_s': [None] * 3,
        'dense_mm': [None, None, pytest.approx(5.0)],
        'recorded_mm': [None, None, pytest.approx(13.0)],
        'gripper': [None, None, 1.0],
        'refusal': ['corrupt: no image', 'limit_translation: far', ''],
    }
    dense[2] = refused(dense[2], 'stale: old')
    row = build(kitchen)['rows'][1]
    assert row['versus_dense'] is None and row['versus_recorded']['steps'] == 8


def test_speed_refreshes_and_the_gripper_are_those_of_the_queries(kitchen):
    pruned = kitchen.answers['specprune']
    for i, changes in ((1, {'refresh_ms': 5.0, 'motion_m_s': 0.25}), (2, {'refresh_ms': 7.0})):
        pruned[i] = replace(pruned[i], record=replace(pruned[i].record, **changes))
    pruned[2].actions[0, 6] = 0.25
    found = build(kitchen)
    assert found['rows'][1]['refresh_ms'] == both(6.0, 6.9)
    series = found['bags'][0]['series']
    assert series['specprune']['speed_m_s'] == [None, 0.25, None]
    assert series['specprune']['gripper'] == [1.0, 1.0, 0.25]
    assert series['dense']['dense_mm'] == [None] * 3


def test_the_gripper_is_followed_over_what_is_executed():
    """Chunks overlap by half. Recorded: closes at 500 ms, opens at 900. Dense: at 450 and 950,
    specprune: at 500 and never; in its first chunk it closes at 350 ms, when the second one runs.
    """
    times = 0.2 * np.arange(4)[:, None] + DT * np.arange(K)

    def closed(begin, end):
        return np.where((times > begin - 0.01) & (times < end - 0.01), 0.0, 1.0)

    pruned = actions(4, gripper=closed(0.5, 9.0))
    pruned[0, 7, 6] = 0.0
    rows = build(
        bag(
            recording(4, actions(4, gripper=closed(0.5, 0.9))),
            dense=answers(actions(4, gripper=closed(0.45, 0.95))),
            specprune=answers(pruned),
        )
    )['rows']
    assert rows[0]['versus_recorded']['flips'] == flips(2, 2, 2, apart_ms=50.0)
    assert rows[1]['versus_recorded']['flips'] == flips(1, 2, 1, apart_ms=0.0)
    assert rows[1]['versus_dense']['flips'] == flips(1, 2, 1, apart_ms=50.0)
    differ = (closed(0.45, 0.95) != closed(0.5, 0.9)).sum()
    assert rows[0]['versus_recorded']['gripper_agreement'] == pytest.approx(1 - differ / 32)


def test_recorded_actions_count_where_they_are_known():
    valid = np.ones((3, K), bool)
    valid[1, 3:], valid[2] = False, False
    acted = actions(3, (0, 0, 0), gripper=np.where(np.arange(K) == 0, 0.25, 0.75))
    acted[~valid] = np.nan
    found = build(
        bag(recording(3, acted, valid), dense=answers(actions(3, (0, 6, 8)))), methods=('dense',)
    )
    compared = found['rows'][0]['versus_recorded']
    assert (compared['steps'], compared['translation_mm']) == (11, flat(10.0))
    assert compared['end_mm'] == flat(80.0)  # of the first, the only whole one
    assert compared['flips']['there'] == 3  # 50, 200 and 250 ms; behind 300 all is unknown
    (described,) = found['bags']
    assert described['series']['dense']['recorded_mm'] == pytest.approx([10.0, 10.0, None])
    assert described['recorded_series'] == {
        't_s': pytest.approx([0.108, 0.308, 0.508]),
        'gripper': [0.25, 0.25, None],
    }


@pytest.mark.parametrize('absent', ['recorded', 'dense'])
def test_a_side_that_is_absent_is_compared_with_nothing(kitchen, absent):
    if absent == 'recorded':
        found = build(replace(kitchen, recording=recording(3)))
        assert found['bags'][0]['recorded'] == '' and found['bags'][0]['recorded_series'] is None
    else:
        kitchen.answers.pop('dense')
        found = build(kitchen, methods=('specprune',), dense='')
    other, value = ('dense', 5.0) if absent == 'recorded' else ('recorded', 13.0)
    row = found['rows'][-1]
    assert row[f'versus_{absent}'] is None
    assert row[f'versus_{other}']['translation_mm'] == flat(value)
    assert found['bags'][0]['series']['specprune'][f'{absent}_mm'] == [None] * 3


def test_several_bags_are_one_row_per_method(kitchen):
    """24 steps 5 mm apart in one bag, 8 steps 1 mm apart in the other: 4 mm on average. Between
    bags there is no border."""
    other = bag(
        recording(1, actions(1)),
        'hall',
        dense=answers(actions(1), mode='dense'),
        specprune=answers(actions(1, (0, 0, 1)), mode='coarse', total_ms=40.0),
    )
    found = build(kitchen, other)
    row = found['rows'][1]
    assert row['versus_dense']['steps'] == 32 and row['queries'] == 4
    assert row['versus_dense']['translation_mm']['mean'] == pytest.approx(4.0)
    assert row['modes'] == {'fine': 3, 'coarse': 1} and row['borders']['borders'] == 2
    assert row['latency_ms'] == both(25.0, 38.5)
    own = {b['name']: b['rows'][1]['versus_dense']['translation_mm'] for b in found['bags']}
    assert own == {'kitchen': flat(5.0), 'hall': flat(1.0)}


def test_a_bag_without_a_recording_is_a_problem_among_others(kitchen):
    gone = BagAnswers('gone', Path('gone'), None, {}, (('unread', 'cut off'),))
    found = build(gone, replace(kitchen, problems=(('refused', 'dense: 1'),)))
    assert found['rows'] == build(kitchen)['rows']
    first, second = found['bags']
    assert (first['name'], first['queries'], first['rows'], first['series']) == ('gone', 0, [], {})
    assert [[p['code'] for p in b['problems']] for b in (first, second)] == [
        ['unread'],
        ['unstamped', 'refused'],
    ]


def test_what_is_said_of_a_bag(kitchen):
    instants = list(kitchen.recording.instants)
    instants[2] = replace(instants[2], epoch=3, instruction='stack')
    found = replace(kitchen.recording, instants=tuple(instants))
    moments = (sample.moment({'dense': '1' * 256}),)
    (described,) = build(replace(kitchen, recording=found, moments=moments))['bags']
    wanted = {
        'name': 'kitchen', 'path': 'bags/kitchen', 'topics': {'primary': '/cam', 'twist': '/cmd'},
        'duration_s': pytest.approx(2.0), 'start_ns': T0 - 100 * MS, 'guessed': True,
        'instructions': ['lift', 'stack'], 'queries': 3, 'epochs': 2, 'losses': {'skew': 2},
        'problems': [{'code': 'unstamped', 'text': '/cam: no stamps'}], 'recorded': 'twist',
        'strip': [vars(moment) for moment in moments],
    }  # fmt: skip
    assert described['there']['/cam'] == {'type': 'sensor_msgs/msg/Image', 'count': 7}
    assert {name: described[name] for name in wanted} == wanted


def test_a_bag_on_which_nothing_was_asked(kitchen):
    """A row of each method all the same: that it has no figures is one."""
    expected = [asdict(sample.empty_row(m)) for m in ('dense', 'specprune')]
    assert build(bag(recording(0)))['rows'] == build()['rows'] == expected
    asked = bag(recording(0), dense=[], specprune=[])
    assert build(asked)['bags'][0]['rows'] == expected


def test_a_result_has_the_keys_of_its_description_and_a_page(kitchen, monkeypatch):
    """With a refused query, a bag without a query and one that could not be read."""
    pruned = kitchen.answers['specprune']
    pruned[1] = refused(pruned[1], 'corrupt: none')
    valid = np.ones((3, K), bool)
    valid[:, -1] = False  # no chunk is known to its end
    shown = sample.moment(dict.fromkeys(('dense', 'specprune'), '1' * 256), camera='primary')
    gone = BagAnswers('gone', Path('gone'), None, {}, (('unread', 'cut off'),))
    found = recording(3, actions(3, (1, 2, 3)), valid)
    kitchen = replace(kitchen, recording=found, moments=(shown,))
    made = built(kitchen, bag(recording(0), 'hall'), gone)
    result = made.to_json()
    assert {'ok', 'untrained', 'rows', 'bags', 'problems', 'settings'} < set(result)
    assert all(set(described) == documented('bags') for described in result['bags'])
    for row in (*result['rows'], *(r for b in result['bags'] for r in b['rows'])):
        assert set(row) == documented('rows')
        for compared in (row['versus_dense'], row['versus_recorded']):
            assert compared is None or set(compared) < documented('versus_...')
    assert made.rows[0].versus_recorded.end_mm is None
    assert made.rows[0].versus_recorded.steps == 21
    monkeypatch.setattr(report, 'bag_figures', lambda bag, methods: {})
    page = report.replay_html(made)
    for text in ('Bag kitchen', 'Bag hall', 'Bag gone', 'cut off', 'specprune', 'corrupt'):
        assert text in page, text
