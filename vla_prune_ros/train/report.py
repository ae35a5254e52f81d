"""The model card of a reference policy: what it learnt from, how it went, what it cannot do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import VlaPruneError
from ..evaluate.figures import figure_class
from .collect import FIRST_CHECK, FIRST_CORRECTION, FIRST_DEMONSTRATION

TEMPLATE = Path(__file__).with_name('model_card.md')


def write_card(folder: Path, about: Mapping[str, Any], parameters: int, rows: int) -> None:
    """Write ``README.md`` and, where matplotlib is installed, ``curves.png``.

    :param about: what ``vla_prune.json`` holds.
    :param parameters: numbers outside the embedding table.
    :param rows: trained rows of that table.
    """
    history = about['history']
    text = TEMPLATE.read_text(encoding='utf-8').format(
        millions=parameters / 1e6,
        rows=rows,
        demonstrations=FIRST_DEMONSTRATION,
        corrections=FIRST_CORRECTION,
        checks=FIRST_CHECK,
        lr=about['plan']['first']['lr'],
        stages='\n'.join(_stage_rows(history)),
        curves='\n![losses](curves.png)\n' if _plot(folder / 'curves.png', history) else '',
        success='\n'.join(_checks(history)),
    )
    (folder / 'README.md').write_text(text, encoding='utf-8')


def _stage_rows(history: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        '| stage | samples | steps | minutes | L1, held out | cube found, held out | cube, mm |',
        '|---|---|---|---|---|---|---|',
    ]
    for entry in history:
        if 'validation' in entry:
            held = entry['validation']
            found = f'{100 * held["hits"]:.1f} %' if 'hits' in held else ''
            l1 = f'{held["l1"]:.4f}' if 'l1' in held else ''
            place = f'{1e3 * held["offset_m"]:.1f}' if 'offset_m' in held else ''
            lines.append(
                f'| {entry["stage"]} | {entry["samples"]} | {entry["steps"]} | '
                f'{entry["seconds"] / 60:.0f} | {l1} | {found} | {place} |'
            )
    return lines


def _checks(history: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f'- after {entry["stage"]}: '
        + '; '.join(f'{task} {text}' for task, text in entry['success'].items())
        for entry in history
        if 'success' in entry
    ]


def _plot(path: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Losses over all stages; False where matplotlib is not installed."""
    try:
        figure = figure_class()((7.0, 2.6), layout='constrained')
    except VlaPruneError:
        return False
    axes = figure.subplots(1, 2)
    first = 0
    for entry in history:
        if 'training' not in entry:
            continue
        steps = [first + point['step'] for point in entry['training']]
        for axis, name in zip(axes, ('l1', 'pointer'), strict=True):
            values = [point.get(name) for point in entry['training']]
            if steps and values[0] is not None:
                axis.plot(steps, values, label=entry['stage'])
        first += entry['steps']
    for axis, name in zip(axes, ('L1 of the chunk', 'pointer'), strict=True):
        axis.set(xlabel='step', ylabel=name, ylim=(0, None))
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return True
