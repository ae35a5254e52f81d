"""The result of ``vla-prune evaluate`` for people: success, cost, and what to know of them."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table


def result_tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Success with its comparison, and what a query costs; a row per task and method."""
    setting = result['settings']
    told = f', told {setting["instruction"]!r}' if setting['instruction'] else ''
    title = f'closed loop in {setting["simulator"]}{told}{_labels(result)}'
    success = _table(title, ('success', '%', '95 %', 'points', '95 %', '- / +', 'p', 'wrong'))
    cost = _table(
        f'what a query costs, {setting["dtype"]} on {_where(result)}',
        ('tokens', '%', 'dense/coarse/fine %', 'queries', 'ms p50', 'p95', 'refresh'),
    )
    rows = result['rows']
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is not None and following['task'] != row['task']
        names = (escape(row['task']), escape(row['method']))
        success.add_row(*names, *success_cells(row), end_section=ends)
        cost.add_row(*names, *cost_cells(row), end_section=ends)
    return success, cost


def result_notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures mean and leave open, one sentence each."""
    first = result['settings']['methods'][0]
    notes = []
    if result['untrained']:
        notes.append('UNTRAINED: random weights; success means nothing here, times do.')
    notes.append(
        f"points: success less that of {first} on the same seeds, with Newcombe's paired "
        f'interval. - / +: episodes that only {first} or only the method solved; p: exact '
        'McNemar test.'
    )
    notes.append(
        'queries: per solved episode. refresh: dense look between queries, not in p50. Success '
        "intervals are Wilson's."
    )
    if result['generated_assets']:
        notes.append(
            'GENERATED ASSETS: primitives in place of the published meshes and textures; not '
            'comparable with published results.'
        )
    notes.append(f'Scene: {"; ".join(result["scenes"])}.')
    short = _short(result)
    if short:
        notes.append(f'Incomplete: {short}; run the same command again to go on.')
    errors = sum(row['errors'] for row in result['rows'] if row['task'] != 'all')
    if errors:
        notes.append(f'{errors} episodes raised an error and count as failures:')
        notes += [f'  {text}' for text in result['errors']]
    return notes


def success_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Success, its interval, and the comparison with the first method, in words of the table."""
    low, high = row['success_ci95']
    wrong = row['wrong_object']
    return (
        f'{row["successes"]}/{row["episodes"]}',
        f'{100 * row["success_rate"]:.1f}',
        f'{100 * low:.1f}-{100 * high:.1f}',
        *_versus(row['versus_first']),
        ' '.join(f'{count} {how}' for how, count in wrong.items()) or '0',
    )


def _versus(versus: Mapping[str, Any] | None) -> tuple[str, ...]:
    if versus is None:
        return ('-',) * 4
    low, high = versus['points_ci95']
    return (
        f'{versus["points"]:+.1f}',
        f'{low:+.1f} {high:+.1f}',
        f'{versus["only_first"]} / {versus["only_this"]}',
        f'{versus["p_value"]:.2g}',
    )


def cost_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Tokens, modes, queries and milliseconds, in words of the table."""
    if not row['queries']:
        return ('-',) * 7
    shares = (100 * row['mode_shares'].get(mode, 0.0) for mode in ('dense', 'coarse', 'fine'))
    asked, refresh = row['queries_per_success'], row['refresh_ms']
    return (
        f'{row["visual_tokens"]:.0f}',
        f'{100 * row["visual_share"]:.0f}',
        '/'.join(f'{share:.0f}' for share in shares),
        '-' if asked is None else f'{asked:.1f}',
        f'{row["latency_ms"]["p50"]:.1f}',
        f'{row["latency_ms"]["p95"]:.1f}',
        '-' if refresh is None else f'{refresh["p50"]:.1f}',
    )


def _short(result: Mapping[str, Any]) -> str:
    """Methods and tasks that have fewer episodes than were asked for."""
    asked = result['settings']['episodes']
    there = {(r['method'], r['task']): r['episodes'] for r in result['rows']}
    wanted = [(m, t) for m in result['settings']['methods'] for t in result['settings']['tasks']]
    missing = sum(asked - there.get(pair, 0) for pair in wanted)
    return f'{missing} of {asked * len(wanted)} episodes are missing' if missing else ''


def _labels(result: Mapping[str, Any]) -> str:
    labels = ', UNTRAINED' if result['untrained'] else ''
    return labels + (', GENERATED ASSETS' if result['generated_assets'] else '')


def _where(result: Mapping[str, Any]) -> str:
    device = result['settings']['device']
    threads = result['settings']['threads']
    if device != 'cpu':
        return device
    return f'{result["machine"]["cpu"]}, {threads} thread{"s" * (threads > 1)}'


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    table.add_column('task', overflow='fold')
    table.add_column('method', overflow='fold')
    for name in columns:
        table.add_column(name, justify='right', no_wrap=True)
    return table
