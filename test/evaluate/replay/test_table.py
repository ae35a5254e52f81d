"""Console tables against the hand-made result dict of ``replay_result``, figures written out."""

import io

import pytest
from replay_result import METHODS, bag, empty_bag, result, row
from rich.console import Console

from vla_prune_ros.evaluate.replay.table import replay_notes, replay_tables


def printed(table, width=110):
    text = io.StringIO()
    Console(width=width, file=text).print(table)
    return text.getvalue()


def cells(table):
    """Lines of a table, split at white space."""
    return [line.split() for line in printed(table).splitlines()]


def test_figures_of_the_dict_stand_in_the_tables():
    cost, error, borders = replay_tables(result())
    assert ['specprune', '4', '1', '128', '25/25/50', '32.0', '96.5', '3.25'] in cells(cost)
    assert ['specprune', '1.75', '0.38'] in cells(borders)
    assert ['specprune', 'dense', '1.38', '2.75', '0.17', '11.0', '75.0', '87.5', '5/4/3',
            '52.5'] in cells(error)  # fmt: skip
    against = [line[:2] for line in cells(error) if line and line[0] in METHODS]
    assert against == [['dense', 'recorded'], ['specprune', 'dense'], ['specprune', 'recorded']]


@pytest.mark.parametrize('untrained', [False, True])
def test_the_title_says_what_was_replayed(untrained):
    title = printed(replay_tables(result(untrained=untrained))[0]).splitlines()[0].strip()
    assert title == 'replay of 1 bag, 4 queries' + ', UNTRAINED' * untrained
    said = [note for note in replay_notes(result(untrained=untrained)) if 'UNTRAINED' in note]
    assert len(said) == untrained


def test_it_fits_a_console():
    for table in replay_tables(result([bag(), bag('other')])):
        assert max(map(len, printed(table, 80).splitlines())) <= 80
        assert '…' not in printed(table, 80)


def test_several_bags_are_told_apart():
    tables = replay_tables(result([bag('first'), empty_bag(), bag('third')]))
    lines = cells(tables[3])
    assert ['first', 'specprune', '4', '1', '128', '32.0', '1.38', '6.62'] in lines
    assert ['third', 'dense', '4', '1', '512', '80.0', '-', '6.62'] in lines


def test_a_method_without_figures_has_dashes():
    nothing = dict.fromkeys(('visual_tokens', 'latency_ms', 'refresh_ms', 'refusals', 'modes',
                             'versus_dense', 'versus_recorded', 'borders'))  # fmt: skip
    rows = [row('dense', queries=0, refused=0, **nothing)]
    cost, error, borders = replay_tables(result([empty_bag()], ('dense',), rows=rows))
    assert ['dense', '0', '0', *['-'] * 5] in cells(cost)
    assert ['dense', '-', '-'] in cells(borders)
    assert not [line for line in cells(error) if line and line[0] == 'dense']


def test_names_are_not_read_as_markup():
    method = '{name: x, budget: [56, 52]}'
    rows = [row(method)]
    tables = replay_tables(result([bag('[red]b', [method]), bag('c', [method])], rows=rows))
    for table in tables:
        assert '[56,52]' in printed(table, 150).replace(' ', '')
    assert '[red]b' in printed(tables[3], 150)


def test_notes_name_losses_refusals_and_problems():
    notes = replay_notes(result())
    assert 'kitchen: not used while pairing: stale:front 13, skew 2.' in notes
    assert 'kitchen, dense: refused stale 1.' in notes
    assert notes[-2:] == [
        '1 problem:',
        '  kitchen: unstamped: 7 messages of /front/image have no stamp',
    ]


def test_many_problems_are_counted():
    codes = ['lost'] * 12 + ['unread', 'lost', 'unread']
    problems = [{'bag': 'b', 'code': c, 'text': str(i)} for i, c in enumerate(codes)]
    notes = replay_notes(result(problems=problems))
    assert notes[-1] == '  and more: unread 2, lost 1'
    assert notes[-2] == '  b: lost: 11' and '15 problems:' in notes


def test_no_problem_is_no_note():
    quiet = bag(problems=[], losses={}, guessed=False, rows=[row('dense', refused=0, refusals={})])
    assert not [note for note in replay_notes(result([quiet])) if 'kitchen' in note]
