"""Error, bias and sign agreement per axis of one replayed bag, as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .replay_columns import AXES
from .replay_drawing import dress, finish, handle, panels
from .replay_series import Pen, known

_GROUP = 0.8  # share of the room of an axis that its bars take
_BIAS = {
    'color': 'black',
    'marker': 'D',
    'markersize': 4.5,
    'markeredgecolor': 'white',
    'markeredgewidth': 0.7,
    'linestyle': '',
}
_Rows = Sequence[tuple[Pen, Mapping[str, Any]]]


def axes_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """A line of three panels per thing that chunks are compared with; None without any.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :raises VlaPruneError: matplotlib is not installed.
    """
    every = {
        words: {row['method']: row[name] for row in bag['rows'] if row.get(name)}
        for name, words in (('versus_dense', 'dense'), ('versus_recorded', 'recorded'))
    }
    shown = {words: rows for words, rows in every.items() if rows}
    if not shown:
        return None
    figure, axes = panels(
        len(shown), 3, 0.5 + 2.1 * len(shown), shared=False, width_ratios=(1, 1, 1.7)
    )
    for line, (words, compared) in zip(axes, shown.items(), strict=True):
        rows = [(drawn[method], comparison) for method, comparison in compared.items()]
        _error_bars(line[0], rows, AXES[:3], f'against {words}, mm')
        _error_bars(line[1], rows, AXES[3:], f'against {words}, deg')
        _sign_bars(line[2], rows)
    used = {method for compared in shown.values() for method in compared}
    return finish(figure, drawn, [m for m in drawn if m in used], [handle('signed mean', **_BIAS)])


def _error_bars(axis: Any, rows: _Rows, names: Sequence[str], label: str) -> None:
    for place, (pen, comparison) in enumerate(rows):
        found = [(comparison['axes'] or {}).get(name) or {} for name in names]
        x = _places(len(names), place, len(rows))
        axis.bar(x, known([f.get('mean_abs') for f in found]), _GROUP / len(rows),
                 color=pen.colour, edgecolor='white', linewidth=0.5)  # fmt: skip
        axis.plot(x, known([f.get('bias') for f in found]), **_BIAS)
    axis.axhline(0, color='black', linewidth=0.8)
    axis.set_ylabel(label, fontsize=9)
    _name(axis, names)


def _sign_bars(axis: Any, rows: _Rows) -> None:
    for place, (pen, comparison) in enumerate(rows):
        shares = 100 * known([(comparison['sign_agreement'] or {}).get(name) for name in AXES])
        x = _places(len(AXES), place, len(rows))
        axis.bar(x, shares, _GROUP / len(rows), color=pen.colour, edgecolor='white',
                 linewidth=0.5)  # fmt: skip
        for still in x[~np.isfinite(shares)]:
            axis.text(still, 3, 'no motion', rotation=90, fontsize=6.5, ha='center', va='bottom')
    axis.axhline(50, color='black', linewidth=0.8, linestyle=':')
    axis.set_ylim(0, 100)
    axis.set_ylabel('same sign, % of steps', fontsize=9)
    _name(axis, AXES)


def _places(groups: int, place: int, rows: int) -> np.ndarray:
    """Where one method's bars stand: beside those of the others, around each group's number."""
    return np.arange(groups) + (place - (rows - 1) / 2) * _GROUP / rows


def _name(axis: Any, names: Sequence[str]) -> None:
    dress(axis)
    axis.set_xticks(range(len(names)), [name.removeprefix('delta_') for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(False, axis='x')
