"""Series of a replay made ready to draw: colours, gaps, windows and runs; no figure is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Told apart with every kind of colour vision, and from the colours of the modes.
_PALETTE = ('#0072b2', '#e69f00', '#882255', '#56b4e9', '#332288', '#999933')
_DENSE = '#4d4d4d'
_MARKERS = 'os^Dv<>Pp*hX'
_LONGEST = 36
_PAUSE = 4.0  # of the usual time between two queries


@dataclass(frozen=True)
class Pen:
    """How a method is drawn, wherever it is drawn.

    :param label: the name as a figure may show it.
    """

    label: str
    colour: str
    marker: str


@dataclass(frozen=True, eq=False)
class Windows:
    """A line, or medians of windows of it where it has too many points.

    :param t_s: float64 (N,) middle of each window.
    :param middle: float64 (N,) median of the known values; NaN where there are none.
    :param low: float64 (N,) least of them.
    :param high: float64 (N,) largest of them.
    :param whole: every point is a window of its own.
    """

    t_s: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    whole: bool


def pens(methods: Sequence[str]) -> dict[str, Pen]:
    """A pen per method, the same wherever the methods are the same."""
    others = [method for method in methods if method != 'dense']
    colours = {m: _PALETTE[i % len(_PALETTE)] for i, m in enumerate(others)} | {'dense': _DENSE}
    return {
        method: Pen(plot_text(method), colours[method], _MARKERS[i % len(_MARKERS)])
        for i, method in enumerate(methods)
    }


def plot_text(name: str) -> str:
    """A name that matplotlib shows as it is: no formula, no hidden label, not endless."""
    short = name if len(name) <= _LONGEST else f'{name[: _LONGEST - 1]}…'
    shown = ''.join(c if c.isprintable() else '?' for c in short).replace('$', r'\$')
    return f' {shown}' if shown.startswith('_') else shown or '?'


def known(values: Sequence[float | None] | None) -> np.ndarray:
    """Float64 (N,), NaN for None."""
    return np.asarray([] if values is None else values, np.float64)


def has_any(bag: Mapping[str, Any], name: str) -> bool:
    """Whether any method of the bag has a value in that series."""
    return any(np.isfinite(known(s.get(name))).any() for s in bag['series'].values())


def _broken(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With an unknown value in each long pause, so that no line is drawn through it."""
    steps = np.diff(times)
    if not len(steps):
        return times, values
    after = np.flatnonzero(steps > _PAUSE * np.median(steps)) + 1
    between = times[after - 1] + 0.5 * steps[after - 1]
    return np.insert(times, after, between), np.insert(values, after, np.nan)


def windows(t_s: Sequence[float], values: np.ndarray, most: int) -> Windows:
    """Medians and extremes of equally many points each, where there are more than ``most``."""
    times = np.asarray(t_s, np.float64)
    if len(times) <= most:
        times, values = _broken(times, values)
        return Windows(times, values, values, values, True)
    ends = np.linspace(0, len(times), most // 2 + 1).round().astype(int)
    parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    some = [values[part][np.isfinite(values[part])] for part in parts]
    return Windows(
        np.array([times[part].mean() for part in parts]),
        *(
            np.array([of(part) if len(part) else np.nan for part in some])
            for of in (np.median, np.min, np.max)
        ),
        whole=False,
    )


def interval(t_s: Sequence[float]) -> float:
    """Usual time between two queries, s; one second where there is none."""
    steps = np.diff(np.asarray(t_s, np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return usual if usual > 0 else 1.0


def runs(t_s: Sequence[float], labels: Sequence[str]) -> list[tuple[float, float, str]]:
    """Stretches of one label as (begin, length, label).

    A query lasts until the next one, at most three times as long as usual: a pause stays empty.
    """
    usual = interval(t_s)
    out: list[tuple[float, float, str]] = []
    following = [*t_s[1:], t_s[-1] + usual] if len(t_s) else []
    for begin, then, label in zip(t_s, following, labels, strict=True):
        length = then - begin if 0 < then - begin <= 3 * usual else usual
        if out and out[-1][2] == label and abs(sum(out[-1][:2]) - begin) < 1e-6 * usual:
            out[-1] = (out[-1][0], begin + length - out[-1][0], label)
        else:
            out.append((begin, length, label))
    return out


def top_of(values: Sequence[np.ndarray]) -> float | None:
    """Where to cut an axis that a few outliers would flatten; None where nothing sticks out."""
    every = np.concatenate([*values, np.empty(0)])
    every = every[np.isfinite(every)]
    if len(every) < 20:
        return None
    usual, most = float(np.percentile(every, 97)), float(every.max())
    return 1.5 * usual if usual > 0 and most > 4 * usual else None
