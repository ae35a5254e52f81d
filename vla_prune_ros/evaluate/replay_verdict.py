"""What came out of a replay, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from .replay_markup import node
from .replay_words import number, percent, plural

_BASE = 'dense'


def verdict(result: Mapping[str, Any]) -> Iterator[Element]:
    """What was replayed, what is wrong, and a sentence per method.

    :param result: what ``report.json`` holds.
    """
    yield node('p', _problem_words(result), class_=f'banner {"good" if result["ok"] else "bad"}')
    yield node('p', _what(result))
    rows = [row for row in result['rows'] if row['queries']]
    if not rows:
        yield node('p', 'No query could be run: there are no figures to show.')
        return
    base = next((row for row in rows if row['method'] == _BASE), None)
    yield node('ul', *(node('li', node('b', row['method']), _method(row, base)) for row in rows))


def _problem_words(result: Mapping[str, Any]) -> str:
    names = ', '.join(dict.fromkeys(p['code'] for p in result['problems']))
    if result['ok']:
        return f'Good, with remarks: {names}.' if names else 'Good: no problems were found.'
    return f'Bad result: {names or "see below"}.'


def _what(result: Mapping[str, Any]) -> str:
    bags = result['bags']
    seconds = sum(bag['duration_s'] or 0.0 for bag in bags)
    asked = sum(bag['queries'] or 0 for bag in bags)
    methods = ', '.join(row['method'] for row in result['rows']) or 'none'
    one = f'bag {bags[0]["name"]}' if len(bags) == 1 else f'{len(bags)} bags'
    profile = (result['settings'] or {}).get('profile')
    on = f', profile {profile}' if profile else ''
    return (
        f'Replayed {one} ({_length(seconds)}, {plural(asked, "query")}) with the checkpoint '
        f'{result["checkpoint"]}{on}. Methods: {methods}.'
    )


def _length(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.1f} s'
    return '{} min {} s'.format(*divmod(round(seconds), 60))


def _method(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    parts = [_cost(row, None if row is base else base)]
    far = [
        f'from {what} by {_error(row[name])}'
        for name, what in (('versus_dense', 'dense'), ('versus_recorded', 'the recorded actions'))
        if row[name]
    ]
    parts.append(f'differs {", and ".join(far)}' if far else '')
    if row['refused']:
        parts.append(f'{row["refused"]} of {row["queries"]} queries were refused')
    return ': ' + '; '.join(part for part in parts if part) + '.'


def _cost(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    """Tokens and latency, beside those of dense where there are."""
    tokens, latency = row['visual_tokens'], (row['latency_ms'] or {}).get('p50')
    if tokens is None and latency is None:
        return 'gave no answer'
    said = f'{number(tokens)} visual tokens'
    if base and tokens is not None and base['visual_tokens']:
        said += f' ({percent(tokens / base["visual_tokens"])} % of dense)'
    if latency is None:
        return said
    said += f', {number(latency)} ms per query'
    known = (base or {}).get('latency_ms')
    return (
        f'{said} ({known["p50"] / latency:.2f} x as fast as dense)' if known and latency else said
    )


def _error(comparison: Mapping[str, Any]) -> str:
    step, turn = comparison['translation_mm'] or {}, comparison['rotation_deg'] or {}
    said = (
        f'{number(step.get("mean"))} mm and {number(turn.get("mean"))} deg per step '
        f'(p95 {number(step.get("p95"))} mm)'
    )
    share = comparison['gripper_agreement']
    return said if share is None else f'{said}, gripper the same in {percent(share)} % of steps'
