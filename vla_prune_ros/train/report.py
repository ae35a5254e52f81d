"""The model card of a reference policy: what it learnt from, how it went, what it cannot do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import VlaPruneError
from ..evaluate.figures import figure_class
from .collect import FIRST_CHECK, FIRST_CORRECTION, FIRST_DEMONSTRATION

_HEAD = """\
---
license: apache-2.0
library_name: vla_prune_ros
tags: [robotics, vision-language-action, openvla-oft, token-pruning]
---
# Reference policy: two cubes, a Panda, six instructions

OpenVLA-OFT+ at reduced width ({millions:.1f} million parameters that act, {rows} rows of the
embedding table): DINOv2- and SigLIP-shaped towers with FiLM, projector, state, bidirectional Llama
decoder, zero slots, L1 head on chunks of 8 steps. All 512 visual tokens took part in every step of
its training, so that it says something about leaving tokens out. The files are laid out as the
authors publish theirs; `load_policy('models/reference')` reads them like any other checkpoint.

It solves tasks in one rendered scene and nothing else: robosuite's Stack table with a red and a
green cube, LIBERO's two cameras, state and actions, fixed light and colours. Its words are those
of the six instructions; any other word has a zero embedding. It is no model for a robot.
"""

_DATA = """\
## Data

A scripted expert with privileged sight, interrupted on purpose: it reaches for the wrong cube
first in half of the episodes, and random motion throws it off its path, before it begins and on
the way. Interruptions are never labels. Every second step is a sample. Then the policy drives and
the expert takes over again and again (DAgger); its actions are the labels. Pictures are what the
towers see (224 x 224 after the published preprocessing), stored as JPEG of quality 95; no
augmentation.

Seeds: demonstrations from {demonstrations}, corrections from {corrections}, checks while training
from {checks}. `vla-prune evaluate` counts from 0: none of its placements was seen in training.

## Training

AdamW, bfloat16 arithmetic on the CPU, learning rate {lr:g} with a cosine, batches of one part per
family of tasks (pick, stack, place), mean of the weights over the last steps. Beside the L1 loss
of the chunk two aids that are thrown away afterwards: every visual token says whether the named
cube is there (cross-entropy), and the read-out rows say where both cubes are. A quarter of the
samples get the instruction about the other cube; only the aids learn from those. First the towers
learn to point, then everything imitates.

Repeat it with `vla-prune train reference`.
"""


def write_card(folder: Path, about: Mapping[str, Any], parameters: int, rows: int) -> None:
    """Write ``README.md`` and, where matplotlib is installed, ``curves.png``.

    :param about: what ``vla_prune.json`` holds.
    :param parameters: numbers outside the embedding table.
    :param rows: trained rows of that table.
    """
    plan = about['plan']
    head = _HEAD.format(millions=parameters / 1e6, rows=rows)
    data = _DATA.format(
        demonstrations=FIRST_DEMONSTRATION,
        corrections=FIRST_CORRECTION,
        checks=FIRST_CHECK,
        lr=plan['first']['lr'],
    )
    table = '\n'.join(_stage_rows(about['history']))
    curves = '\n![losses](curves.png)\n' if _plot(folder / 'curves.png', about['history']) else ''
    (folder / 'README.md').write_text(
        f'{head}\n{data}\n{table}\n{curves}\n## Success\n\n{_checks(about["history"])}\n',
        encoding='utf-8',
    )


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


def _checks(history: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        'Dense, on the seeds of the checks; `vla-prune evaluate` has the real figures '
        '(docs/results.md of the repository).',
        '',
    ]
    for entry in history:
        if 'success' in entry:
            found = '; '.join(f'{task} {text}' for task, text in entry['success'].items())
            lines.append(f'- after {entry["stage"]}: {found}')
    return '\n'.join(lines)


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
