"""Tables and notes of a made-up result, read as text of 80 columns."""

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.bench.tables import pruning_notes, pruning_tables

ROW = {
    'queries': 16,
    'visual_tokens': 120.4,
    'latency_ms': {'p50': 4321.07, 'p95': 12345.6},
    'stages_ms': {
        name: {'p50': p50, 'p95': 0.0}
        for name, p50 in {
            'preprocess': 11.1,
            'vision': 222.2,
            'selection': 33.3,
            'language': 4444.4,
            'head': 5.5,
        }.items()
    },
    'refresh_ms': {'p50': 66.6, 'p95': 77.7},
    'tflops': 9.1234,
    'speedup_vs_dense': 1.716,
    'speedup_vs_published': 2.014,
    'roofline_ms': 3543.3,
    'selection_percent_of_dense': 3.14,
    'first_ms': 4753.18,
}
NONE = dict.fromkeys(('refresh_ms', 'tflops', 'roofline_ms', 'speedup_vs_published'))
LONG = 'specprune:recommended'


def result(**changes):
    model = {
        'preset': '7b',
        'dtype': 'bfloat16',
        'device': 'cpu',
        'layers': 32,
        'layers_published': 32,
        'shared_layers': False,
        **changes,
    }
    return {
        'ok': True,
        'rows': [
            {'method': 'dense', 'mode': 'dense', **ROW, **NONE},
            {'method': LONG, 'mode': 'coarse', **ROW},
        ],
        'whole_run': [
            {'method': 'dense', 'modes': {'dense': 16}},
            {
                'method': LONG,
                'modes': {'dense': 1, 'coarse': 15},
                'speedup_vs_dense': 1.652,
                'speedup_vs_published': 1.851,
            },
        ],
        'model': model,
        'settings': {'threads': 1, 'refresh': True, 'chunk_ms': 400.0, 'load_before': 0.1},
        'untrained': True,
        'machine': {
            'cpu': 'Abacus',
            'cores': 2,
            'roofline': {'tflops': 0.5512, 'gb_per_s': 21.28},
        },
        'memory_peak_gb': 16.44,
    }


def lines(table):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return [line for line in capture.get().splitlines() if line.strip()]


def test_both_tables_fit_into_80_columns_with_every_number():
    totals, stages = (lines(t) for t in pruning_tables(result()))
    want = 'pruning methods in ms, 7b bfloat16, 32 layers, 1 thread, on Abacus'
    assert totals[0].strip() == want
    numbers = ['16', '120', '4321.1', '12345.6', '1.72']
    assert totals[-1].split() == [LONG, 'coarse', *numbers, '2.01', '3.1', '9.12', '82']
    assert totals[-2].split() == ['dense', 'dense', *numbers, '-', '3.1', '-', '-']
    parts = ['11.1', '222.2', '33.3', '4444.4', '5.5']
    assert stages[-1].split() == [LONG, 'coarse', *parts, '66.6']
    assert stages[-2].split() == ['dense', 'dense', *parts, '-']


def test_a_gpu_is_named_instead_of_the_processor():
    totals, _ = pruning_tables(result(device='cuda'))
    assert totals.title.endswith('on cuda')


@pytest.mark.parametrize(
    ('change', 'words', 'said'),
    [
        ({}, 'Random weights', True),
        ({}, 'decoder layers', False),
        ({'shared_layers': True}, 'All 32 decoder layers use the weights of the first', True),
        ({'layers': 4}, '4 of 32 decoder layers', True),
    ],
)
def test_notes_on_the_model(change, words, said):
    assert (words in ' '.join(pruning_notes(result(**change)))) is said


def test_notes_on_the_run():
    data = result()
    assert '0.551 TFLOP/s in a product of bfloat16, 21.3 GB/s' in ' '.join(pruning_notes(data))
    assert 'executes a chunk in 400 ms' in ' '.join(pruning_notes(data))
    data['settings'].update(refresh=False, load_before=6.5)
    data['ok'] = False
    notes = ' '.join(pruning_notes(data))
    assert 'executes' not in notes and 'not finite' in notes
    assert 'busy: load average 6.5 on 2 cores' in notes


def test_notes_on_the_whole_run_and_the_first_query():
    notes = pruning_notes(result())
    whole = [n for n in notes if 'whole run' in n]
    assert whole == [
        f'{LONG} over the whole run (1 dense, 15 coarse), by mean times: '
        '1.65 of dense, 1.85 of published.'
    ]
    assert f'at most 1.10 ({LONG}, coarse)' not in ' '.join(notes)  # equal: the first row's
    assert 'at most 1.10 (dense, dense)' in ' '.join(notes)
