"""How a replay's figures read: numbers, shares and counts, and nothing where nothing is known."""

from collections.abc import Mapping
from typing import Any

NOTHING = '-'
_EMPTY: Mapping[str, Any] = {
    'queries': 0,
    'there': {},
    'topics': {},
    'instructions': [],
    'losses': {},
    'problems': [],
    'rows': [],
    'series': {},
    'strip': [],
}


def filled(bag: Mapping[str, Any]) -> dict[str, Any]:
    """A bag of the result dict whose unknown parts (a bag that could not be read) are empty."""
    return {**bag, **{name: none for name, none in _EMPTY.items() if bag.get(name) is None}}


def number(value: float | None) -> str:
    """About three digits; a small value that is not zero never reads as zero."""
    if value is None:
        return NOTHING
    size = abs(value)
    if 0 < size < 0.01:
        return f'{value:.2g}'
    return f'{value:.{0 if size >= 100 else 1 if size >= 10 else 2}f}'


def signed(value: float | None) -> str:
    """The same with its sign."""
    text = number(value)
    return text if value is None or text.startswith('-') else f'+{text}'


def percent(share: float | None) -> str:
    """A share of 0 to 1 as per cent; only a whole one reads as 100."""
    if share is None:
        return NOTHING
    if share == 1:
        return '100'
    return f'{min(100 * share, 99.9) if share < 1 else 100 * share:.1f}'


def counts(of: Mapping[str, int] | None) -> str:
    """``'stale:ee_pose 3, skew 1'``, the most frequent first."""
    ordered = sorted((of or {}).items(), key=lambda item: (-item[1], item[0]))
    return ', '.join(f'{name} {count}' for name, count in ordered) or NOTHING


def plural(count: int, word: str) -> str:
    """``'1 query'``, ``'2 queries'``."""
    if count == 1:
        return f'1 {word}'
    return f'{count} {word[:-1]}ies' if word.endswith('ry') else f'{count} {word}s'
