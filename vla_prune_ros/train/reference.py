"""``vla-prune train reference``: demonstrations, training, corrections on policy, a checkpoint.

A stage is skipped where the work folder holds its result: an interrupted run goes on.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, ProfileError, VlaPruneError
from ..evaluate.closed_loop.rollout import EpisodeResult
from ..evaluate.figures import figure_class
from ..model.files import write_json
from ..model.prompt import PromptTokenizer
from ..runtime.progress import Progress
from ..sim.two_cubes import TASKS
from .collect import (
    FIRST_CHECK,
    FIRST_CORRECTION,
    FIRST_DEMONSTRATION,
    Collection,
    collect,
    episodes,
    measure,
)
from .dataset import OFFSET_UNIT_M, CubeBatch, Episode, Samples, describe_numbers, split
from .publish import export
from .tasks.lightvla import chunk_loss
from .tasks.policy import ReferenceNet, Words, make_tokenizer
from .trainer import Schedule, Trainer

FURTHER_LR = 6e-4
RECIPES = ('towers', 'first', 'further')
PLACES = ('work', 'workers', 'device')  # where it is done, not what
VALIDATION_BATCH = 16


@dataclass(frozen=True)
class Recipe:
    steps: int
    lr: float = 8e-4  # peak, of AdamW; with a cosine
    batch: int = 8  # samples of every family of tasks per step
    part: int = 8  # that go forward and back at once; few, so that a CPU's cache holds them
    towers_only: bool = False  # train the towers' pointers alone, without the decoder
    swapped: float = 0.25  # ratio of samples with the instruction about the other cube
    pointer: float = 0.1  # weight of the pointer loss
    offset: float = 0.3  # weight of the offset loss
    warm_up: int = 60
    decay: float = 0.02  # of matrices
    average: float = 0.998  # see trainer.Schedule
    seed: int = 0  # of the samples that are drawn

    def __post_init__(self) -> None:
        if self.batch % self.part or self.part < 1:
            raise ProfileError(
                f'a batch of {self.batch} has no parts of {self.part}', 'use a divisor of it'
            )


@dataclass(frozen=True)
class Plan:
    work: Path  # of episodes and states, about 1 GB per 1300 episodes
    demonstrations: int = 1200  # episodes of the disturbed expert, the six tasks in turn
    # First the towers learn to find the named cube; then the expert is imitated.
    towers: Recipe = field(default_factory=lambda: Recipe(600, towers_only=True))
    first: Recipe = field(default_factory=lambda: Recipe(3000))
    corrections: tuple[int, ...] = (240, 240)  # episodes of each round of DAgger
    further: Recipe = field(default_factory=lambda: Recipe(2000, lr=FURTHER_LR))
    checks: int = 60  # episodes to measure success with after each round
    workers: int = 2
    seed: int = 0
    device: str = 'cpu'


def losses(net: ReferenceNet, batch: CubeBatch, recipe: Recipe) -> tuple[Tensor, dict[str, float]]:
    """The sum to minimise, and its parts: ``l1`` of the normalised chunk (OpenVLA-OFT),
    ``pointer``, the cross-entropy of finding the cubes among the patches, and ``offset_m``, the
    mean error of the cubes' places."""
    with torch.autocast(batch.pixels.device.type, torch.bfloat16):
        if recipe.towers_only:
            pointers = net.point(net.visual(batch.pixels, batch.prompts))
        else:
            actions, pointers, offsets = net(batch.pixels, batch.prompts, batch.state)
    where = batch.patches.flatten()
    found = pointers.float().flatten(0, 2)
    visible = (where >= 0).sum().clamp(min=1)
    pointer = F.cross_entropy(found, where, ignore_index=-1, reduction='sum') / visible
    hits = ((found.argmax(1) == where) & (where >= 0)).sum() / visible
    parts = {'pointer': float(pointer.detach()), 'hits': float(hits)}
    if recipe.towers_only:
        return pointer, parts
    l1, _ = chunk_loss(actions, batch)
    offset = (offsets.float() - batch.offsets).abs().mean()
    parts.update(l1=float(l1.detach()), offset_m=float(offset.detach()) * OFFSET_UNIT_M)
    return l1 + recipe.pointer * pointer + recipe.offset * offset, parts


def reference_trainer(net: ReferenceNet, recipe: Recipe, state: Path) -> Trainer:
    matrices = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    groups = [
        {'params': matrices, 'weight_decay': recipe.decay},
        {'params': others, 'weight_decay': 0.0},
    ]
    return Trainer(
        dict(net.named_parameters()),
        torch.optim.AdamW(groups, recipe.lr, betas=(0.9, 0.97), fused=True),
        Schedule(steps=recipe.steps, lr=recipe.lr, warm_up=recipe.warm_up, average=recipe.average),
        state,
        asdict(recipe),
    )


def backward(net: ReferenceNet, samples: Samples, recipe: Recipe, step: int) -> dict[str, float]:
    """Add a step's gradient to the weights; the mean losses of its samples."""
    # Of the step alone, so that a resumed run draws the same.
    rng = np.random.default_rng((recipe.seed, recipe.steps, step))
    device = next(net.parameters()).device
    parts = recipe.batch // recipe.part
    ratio = 1.0 / (parts * len(samples.families))
    sums: dict[str, float] = {}
    for family in [name for name in samples.families for _ in range(parts)]:
        batch = samples.draw(family, recipe.part, recipe.swapped, rng)
        loss, found = losses(net, batch.to(device), recipe)
        (loss * ratio).backward()
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value * ratio
    return sums


@torch.no_grad()
def validate(
    net: ReferenceNet, samples: Samples, recipe: Recipe, most: int = 96
) -> dict[str, float]:
    """Mean losses over at most ``most`` held-out frames of each family, evenly spaced, with the
    right instruction."""
    device = next(net.parameters()).device
    sums: dict[str, float] = {}
    for family, group in samples.families.items():
        frames = np.linspace(0, len(group.index) - 1, min(most, len(group.index))).astype(int)
        for block in np.array_split(frames, max(1, len(frames) // VALIDATION_BATCH)):
            batch = samples.batch(family, block, np.zeros(len(block), bool))
            ratio = len(block) / len(frames) / len(samples.families)
            for name, value in losses(net, batch.to(device), recipe)[1].items():
                sums[name] = sums.get(name, 0.0) + value * ratio
    return sums


def train_reference(plan: Plan, out: Path, progress: Progress) -> dict[str, Any]:
    """Train, write the checkpoint to ``out``, and return what its ``vla_prune.json`` says."""
    return _Run(plan, progress).run(out)


class _Run:
    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        plan.work.mkdir(parents=True, exist_ok=True)
        _require_same(plan)
        tokenizer = plan.work / 'tokenizer.json'
        make_tokenizer().save(str(tokenizer))
        instructions = [task.instruction for task in TASKS.values()]
        self.words = Words(instructions, PromptTokenizer(tokenizer))
        self.history: list[dict[str, Any]] = []
        self.steps = 0
        self._held_out: list[Episode] = []
        self._episodes: list[Episode] = []

    def run(self, out: Path) -> dict[str, Any]:
        plan, stage = self.plan, 'imitation'
        last = FIRST_DEMONSTRATION + plan.demonstrations
        self._record('demonstrations', range(FIRST_DEMONSTRATION, last), None)
        self.statistics = describe_numbers(self._episodes)
        self.net = ReferenceNet(self.words.rows, plan.seed).to(plan.device)
        self._train('towers', plan.towers)
        self._train(stage, plan.first)
        self._check(stage)
        for number, count in enumerate(plan.corrections, start=1):
            first = FIRST_CORRECTION + 100_000 * number
            self._record(f'corrections-{number}', range(first, first + count), plan.work / stage)
            stage = f'round-{number}'
            self._train(stage, plan.further)
            self._check(stage)
        about = {'task_names': list(TASKS), 'history': self.history, 'plan': _plain(plan)}
        self._export(out, about)
        parameters = self.net.policy.named_parameters()
        acting = sum(p.numel() for name, p in parameters if 'embed_tokens' not in name)
        write_card(out, about, acting, self.words.rows)
        return about

    def _record(self, name: str, seeds: range, checkpoint: Path | None) -> None:
        folder = self.plan.work / name
        self.progress.stage(f'recording {name}', len(seeds))
        collect(Collection(folder, seeds, checkpoint), self.plan.workers, self.progress.at)
        train, held_out = split(episodes(folder, seeds))
        self._episodes += train
        self._held_out += held_out

    def _train(self, name: str, recipe: Recipe) -> None:
        """The network holds the running mean of its weights afterwards."""
        net, recipe = self.net, replace(recipe, seed=self.plan.seed)
        samples = Samples(self._episodes, self.words, self.statistics)
        held_out = Samples(self._held_out, self.words, self.statistics)
        trainer = reference_trainer(net, recipe, self.plan.work / f'{name}.pt')
        self.progress.stage(f'training {name}', recipe.steps)
        trainer.run(
            lambda step: backward(net, samples, recipe, step),
            lambda step, metrics: self.progress.at(step, trainer.curve.text()),
        )
        trainer.use_average()
        self.steps += recipe.steps
        entry = {
            'stage': name,
            'samples': len(samples),
            'steps': recipe.steps,
            'seconds': round(trainer.curve.seconds),
            'training': trainer.curve.points,
            'validation': validate(net, held_out, recipe),
        }
        self.history.append(entry)

    def _check(self, name: str) -> None:
        folder, file = self.plan.work / name, self.plan.work / f'{name}.json'
        if not file.is_file():
            self._export(folder, {'stage': name})
            seeds = range(FIRST_CHECK, FIRST_CHECK + self.plan.checks)
            self.progress.stage(f'measuring {name}', len(seeds))
            found = measure(folder, seeds, self.plan.workers, self.progress.at)
            write_json(file, {'stage': name, 'success': successes(found)})
        self.history.append(json.loads(file.read_text(encoding='utf-8')))

    def _export(self, folder: Path, about: Mapping[str, Any]) -> None:
        export(
            self.net,
            self.words,
            folder=folder,
            statistics=self.statistics,
            step=self.steps,
            about=about,
        )


def successes(results: Iterable[EpisodeResult]) -> dict[str, str]:
    found: dict[str, list[EpisodeResult]] = {}
    for result in results:
        found.setdefault(result.task, []).append(result)
    return {
        task: f'{sum(r.success for r in runs)}/{len(runs)}'
        + (f', wrong {sum(bool(r.wrong_object) for r in runs)}' if 'pick' in task else '')
        for task, runs in sorted(found.items())
    }


def _require_same(plan: Plan) -> None:
    """:raises CheckpointError: the folder belongs to another plan, for whose result its content
    would be taken."""
    file, wanted = plan.work / 'plan.json', _plain(plan)
    begun = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else wanted
    rounds = begun['corrections']
    for name in ('seed', 'demonstrations', *RECIPES, 'checks', 'corrections'):
        now = wanted[name][: len(rounds)] if name == 'corrections' else wanted[name]
        if now != begun[name]:
            raise CheckpointError(
                f'{plan.work} was begun with {name} {begun[name]}, not {wanted[name]}',
                'use the same options as then, or another --work folder',
            )
    write_json(file, wanted)


def _plain(plan: Plan) -> dict[str, Any]:
    about = asdict(plan)
    for name in RECIPES:
        about[name]['seed'] = plan.seed
    return json.loads(json.dumps({k: v for k, v in about.items() if k not in PLACES}))


# --- model card ----------------------------------------------------------------------------------


def write_card(folder: Path, about: Mapping[str, Any], parameters: int, rows: int) -> None:
    """Write ``README.md`` and, where matplotlib is installed, ``curves.png``.

    :param about: what ``vla_prune.json`` holds.
    :param parameters: numbers outside the embedding table. :param rows: trained rows of it.
    """
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = Path(__file__).with_name('model_card.md').read_text(encoding='utf-8')
    text = environment.from_string(template).render(
        millions=parameters / 1e6,
        rows=rows,
        demonstrations=FIRST_DEMONSTRATION,
        corrections=FIRST_CORRECTION,
        checks=FIRST_CHECK,
        lr=about['plan']['first']['lr'],
        history=about['history'],
        curves=_plot(folder / 'curves.png', about['history']),
    )
    (folder / 'README.md').write_text(text, encoding='utf-8')


def _plot(path: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Losses over all stages; False where matplotlib is not installed."""
    try:
        figure = figure_class()((7.0, 2.6), layout='constrained')
    except VlaPruneError:
        return False
    labels = {'l1': 'L1 of the chunk', 'pointer': 'pointer'}
    for axis, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        first = 0
        for entry in (entry for entry in history if 'training' in entry):
            points = [(first + p['step'], p[name]) for p in entry['training'] if name in p]
            if points:
                axis.plot(*zip(*points, strict=True), label=entry['stage'])
            first += entry['steps']
        axis.set(xlabel='step', ylabel=label, ylim=(0, None))
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return True
