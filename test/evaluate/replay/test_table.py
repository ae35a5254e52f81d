"""Console tables against the hand-made result dict of ``replay_result``, figures written out."""

import io

from replay_result import bag, empty_bag, result, row
from rich.console import Console

from vla_prune_ros.evaluate.replay.results import BagProblem
from vla_prune_ros.evaluate.replay.table import replay_notes, replay_tables


def printed(table, width=110):
    text = io.StringIO()
    Console(width=width, file=text).print(table)
    return text.getvalue()


def cells(table):
    """Lines of a table, split at white space."""
    return [line.split() for line in printed(table).splitlines()]


def test_figures_of_the_result_stand_in_the_tables():
    cost, error, borders = replay_tables(result())
    assert ['specprune', '4', '1', '128', '25/25/50', '32.0', '96.5', '3.25'] in cells(cost)
    assert ['specprune', '2', '1.75', '0.38'] in cells(borders)
    assert ['specprune', 'dense', '1.38', '2.75', '0.17', '11.0', '75.0', '87.5', '5/4/3',
            '52.5'] in cells(error)  # fmt: skip


def test_several_bags_are_told_apart():
    tables = replay_tables(result([bag('first'), empty_bag(), bag('third')]))
    lines = cells(tables[3])
    assert ['first', 'specprune', '4', '1', '128', '32.0', '1.38', '6.62'] in lines
    assert ['third', 'dense', '4', '1', '512', '80.0', '-', '6.62'] in lines


def test_names_are_not_read_as_markup():
    method = '{name: x, budget: [56, 52]}'
    bags = [bag('[red]b', [method]), bag('c', [method])]
    tables = replay_tables(result(bags, rows=(row(method),)))
    for table in tables:
        assert '[56,52]' in printed(table, 150).replace(' ', '')
    assert '[red]b' in printed(tables[3], 150)


def test_notes_name_losses_refusals_and_problems():
    notes = '\n'.join(replay_notes(result()))
    for part in ('stale:front 13', 'skew 2', 'stale 1', 'kitchen: unstamped: 7 messages'):
        assert part in notes


def test_of_many_problems_the_first_are_shown_and_all_are_counted():
    codes = ['lost'] * 12 + ['unread', 'lost', 'unread']
    problems = tuple(BagProblem('b', code, f'number {i}') for i, code in enumerate(codes))
    notes = '\n'.join(replay_notes(result(problems=problems)))
    assert '15' in notes and 'number 11' in notes and 'number 12' not in notes
    assert 'unread 2, lost 1' in notes
