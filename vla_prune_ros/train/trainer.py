"""The loop of a fine-tuning, on one device or many: steps, metrics, resume, checkpoints.

The unfinished state of a training, on disk.

The losses of a run, smoothed, and the time it took.

One optimisation after another: losses, schedule, averaged weights, and a state on disk.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.load import load_policy
from ..engine.policy import Policy
from ..errors import CheckpointError, ProfileError, VlaPruneError
from .collate import Labelled, StepBatches, Together, loader, together
from .config import Data, FineTuning
from .dataset import OFFSET_UNIT_M, Batch, Samples
from .publish import publish
from .sources.base import open_source, require_units
from .tasks.policy import ReferenceNet
from .tasks.registry import make_task

if TYPE_CHECKING:
    from accelerate import Accelerator


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` where it is whole at any moment: a run that is cut leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    torch.save(state, part)
    part.replace(path)


POINT_EVERY = 100
_KEEP = 0.97  # of the running mean


class Curve:
    """A point every hundred steps; lives on in a saved state.

    ``points``: one mapping per point, ``step`` and the running mean of each loss. ``seconds``:
    time spent in all sessions.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0
        self._mean: dict[str, float] = {}
        self._since = time.monotonic()

    def begin(self) -> None:
        """Time counts from now."""
        self._since = time.monotonic()

    def add(self, step: int, losses: dict[str, float]) -> None:
        """Take in the losses of one step."""
        for name, value in losses.items():
            self._mean[name] = _KEEP * self._mean.get(name, value) + (1.0 - _KEEP) * value
        if step % POINT_EVERY == 0:
            rounded = {name: round(value, 4) for name, value in self._mean.items()}
            self.points.append({'step': step, **rounded})
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def text(self) -> str:
        """The running means, for a progress line."""
        return '  '.join(f'{name} {value:.4f}' for name, value in self._mean.items())

    def state(self) -> dict[str, Any]:
        """What :meth:`resume` takes."""
        return {'points': self.points, 'seconds': self.seconds, 'mean': self._mean}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where another curve was."""
        self.points, self.seconds = list(state['points']), state['seconds']
        self._mean = dict(state['mean'])


Report = Callable[[int, Curve], None]


@dataclass(frozen=True)
class Recipe:
    """Numbers of one run of the optimiser.

    :param steps: optimiser steps; each takes ``batch`` samples of every family of tasks.
    :param lr: peak learning rate of AdamW; linear warm-up, then a cosine to 2 % of it.
    :param part: samples that go forward and back at once; few, so that a CPU's cache holds them.
    :param towers_only: train the towers' pointers alone, without the decoder.
    :param swapped: share of samples with the instruction about the other cube.
    :param pointer: weight of the pointer loss. :param offset: weight of the offset loss.
    :param warm_up: steps of the ramp. :param decay: weight decay of matrices.
    :param average: share of the running mean of the weights that a step keeps.
    :param seed: of the samples that are drawn.
    """

    steps: int
    lr: float = 8e-4
    batch: int = 8
    part: int = 8
    towers_only: bool = False
    swapped: float = 0.25
    pointer: float = 0.1
    offset: float = 0.3
    warm_up: int = 60
    decay: float = 0.02
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch % self.part or self.part < 1:
            raise ProfileError(
                f'a batch of {self.batch} has no parts of {self.part}', 'use a divisor of it'
            )


class Learner:
    """Trains a :class:`ReferenceNet` on samples, on the device of its weights.

    :param state: file with the state of an unfinished run, so that it can go on.
    """

    def __init__(self, net: ReferenceNet, samples: Samples, recipe: Recipe, state: Path) -> None:
        self.net, self.samples, self.recipe = net, samples, recipe
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.device = next(net.parameters()).device
        self.step = 0
        self.curve = Curve()
        self._state = state
        matrices = [p for p in net.parameters() if p.dim() > 1]
        others = [p for p in net.parameters() if p.dim() <= 1]
        groups = [
            {'params': matrices, 'weight_decay': recipe.decay},
            {'params': others, 'weight_decay': 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, recipe.lr, betas=(0.9, 0.97), fused=True)
        self._resume()

    def run(self, report: Report, save_every: int = 200) -> None:
        """Steps up to the recipe's number; ``report`` is called after each."""
        self.curve.begin()
        while self.step < self.recipe.steps:
            self.curve.add(self.step + 1, self._one_step())
            report(self.step, self.curve)
            if self.step % save_every == 0 or self.step == self.recipe.steps:
                self._save()

    def _one_step(self) -> dict[str, float]:
        """The mean losses of the step's samples."""
        recipe = self.recipe
        # Of the step alone, so that a resumed run draws the same.
        rng = np.random.default_rng((recipe.seed, recipe.steps, self.step))
        rate = recipe.lr * learning_rate(self.step, recipe)
        for group in self._optimizer.param_groups:
            group['lr'] = rate
        self._optimizer.zero_grad()
        sums: dict[str, float] = {}
        parts = recipe.batch // recipe.part
        share = 1.0 / (parts * len(self.samples.families))
        for family in [name for name in self.samples.families for _ in range(parts)]:
            batch = self.samples.draw(family, recipe.part, recipe.swapped, rng)
            loss, found = losses(self.net, batch.to(self.device), recipe)
            (loss * share).backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value * share
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()
        self.step += 1
        self._follow()
        return sums

    def _follow(self) -> None:
        """The running mean of the weights, which is what is kept in the end."""
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mean, now = list(self.average.parameters()), list(self.net.parameters())
            torch._foreach_lerp_(mean, now, 1.0 - keep)

    def _save(self) -> None:
        state: dict[str, Any] = {
            'recipe': asdict(self.recipe),
            'step': self.step,
            'net': self.net.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self._optimizer.state_dict(),
            'curve': self.curve.state(),
        }
        save_state(state, self._state)

    def _resume(self) -> None:
        if not self._state.is_file():
            return
        state = torch.load(self._state, map_location=self.device, weights_only=True)
        if state['recipe'] != asdict(self.recipe):
            return  # of another run: start over
        self.net.load_state_dict(state['net'])
        self.average.load_state_dict(state['average'])
        self._optimizer.load_state_dict(state['optimizer'])
        self.step = state['step']
        self.curve.resume(state['curve'])


def learning_rate(step: int, recipe: Recipe) -> float:
    """Share of the peak: half a cosine down to 0.02, times a ramp over ``warm_up`` steps."""
    warm = min(1.0, (step + 1) / max(1, recipe.warm_up))
    return warm * cosine(step / recipe.steps)


def cosine(progress: float) -> float:
    """Half a cosine from 1 down to 0.02, for a progress of 0 to 1."""
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress))


def losses(net: ReferenceNet, batch: Batch, recipe: Recipe) -> tuple[Tensor, dict[str, float]]:
    """The sum to minimise, and its parts.

    ``l1`` is the normalised L1 of the chunk (OpenVLA-OFT), ``pointer`` the cross-entropy of
    finding the cubes among the patches, ``offset_m`` the mean error of the cubes' places.
    """
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
    error = (actions.float() - batch.actions).abs().mean(-1)
    l1 = (error * batch.weights).sum() / batch.weights.sum().clamp(min=1.0)
    offset = (offsets.float() - batch.offsets).abs().mean()
    parts.update(l1=float(l1.detach()), offset_m=float(offset.detach()) * OFFSET_UNIT_M)
    return l1 + recipe.pointer * pointer + recipe.offset * offset, parts


@torch.no_grad()
def validate(
    net: ReferenceNet, samples: Samples, recipe: Recipe, most: int = 96
) -> dict[str, float]:
    """Mean losses over held-out frames, evenly spaced, with the right instruction."""
    sums: dict[str, float] = {}
    for family, group in samples.families.items():
        chosen = np.linspace(0, len(group.index) - 1, min(most, len(group.index))).astype(int)
        blocks = np.array_split(chosen, max(1, len(chosen) // 16))
        for block in blocks:
            batch = samples.batch(family, block, np.zeros(len(block), bool))
            batch = batch.to(next(net.parameters()).device)
            for name, value in losses(net, batch, recipe)[1].items():
                share = len(block) / len(chosen) / len(samples.families)
                sums[name] = sums.get(name, 0.0) + value * share
    return sums


FinetuneReport = Callable[[int, Mapping[str, float]], None]
PLACES = {
    'out',
    'work',
    'workers',
    'save_every',
    'export_every',
    'validate_every',
    'validation_samples',
}
"""Settings that may differ when a run goes on."""


class FineTuner:
    """One run of a fine-tuning; every process of a multi-GPU run holds one.

    :param settings: what to do; ``work`` may hold the state of an interrupted run.
    :param device: torch device; None for what accelerate chooses, see ``accelerate launch``.
    :raises VlaPruneError: accelerate is not installed, data or checkpoint are not usable, or
        ``work`` holds the state of another run.
    """

    def __init__(self, settings: FineTuning, device: str | None = None) -> None:
        self.settings = settings
        self.accelerator = _accelerator(settings, device)
        device_name = str(self.accelerator.device)
        self.policy = load_policy(
            settings.checkpoint,
            settings.profile,
            device=device_name,
            dtype=settings.dtype,
            unnorm_key=settings.unnorm_key,
        )
        self.task = make_task(self.policy, settings)
        self.data = _open(self.policy, settings.data, settings.augment)
        self.held = _open(self.policy, settings.validation, False) if settings.validation else None
        self._named = [(n, p) for n, p in self.task.named_parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [p for _, p in self._named], settings.lr, weight_decay=settings.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        self._resume()

    def run(self, report: FinetuneReport = lambda step, metrics: None) -> dict[str, Any]:
        """Train to the last step and write the checkpoint.

        :param report: called after each step with its metrics.
        :returns: plain values: steps, seconds, the last metrics.
        """
        settings, accelerator = self.settings, self.accelerator
        prepared = accelerator.prepare(self.task)
        accelerator.init_trackers('tensorboard')
        order = StepBatches(
            self.data.prompt_lengths(),
            settings.batch,
            (self.step, settings.steps),
            settings.seed,
            accelerator.process_index,
        )
        metrics: dict[str, float] = {}
        since = time.monotonic()
        for batch in loader(self.data, order, settings.workers):
            metrics = self._one_step(prepared, batch)
            now = time.monotonic()
            self.seconds, since = self.seconds + now - since, now
            self._after(metrics)
            report(self.step, metrics)
        accelerator.end_training()
        if accelerator.is_main_process:
            publish(self.policy, self.task.note(), settings, self.step)
        return {'steps': self.step, 'seconds': round(self.seconds), **metrics}

    def validate(self) -> dict[str, float]:
        """Mean metrics of held-out samples, pruned as at inference; empty without any."""
        if self.held is None:
            return {}
        batch = min(self.settings.batch, 16)
        steps = max(1, self.settings.validation_samples // batch)
        order = StepBatches(self.held.prompt_lengths(), batch, (0, steps), seed=1)
        sums: dict[str, float] = {}
        with torch.no_grad():
            for labelled in loader(self.held, order, 0):
                for name, value in self._evaluate(labelled).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(order)
        return {f'validation/{name}': value for name, value in sums.items()}

    def _evaluate(self, batch: Labelled) -> Mapping[str, Tensor]:
        with self._arithmetic():
            return self.task(batch.to(self.accelerator.device), self.step / self.settings.steps)[1]

    def _one_step(self, prepared: nn.Module, batch: Labelled) -> dict[str, float]:
        settings, device = self.settings, self.accelerator.device
        share = self.step / settings.steps
        rate = settings.lr * finetune_learning_rate(self.step, settings)
        for group in self._optimizer.param_groups:
            group['lr'] = rate
        self._optimizer.zero_grad()
        # Of the step and process alone, so that a resumed run draws the same noise.
        seed = (settings.seed * 1_000_003 + self.step) * 997 + self.accelerator.process_index
        generator = torch.Generator(device).manual_seed(seed)
        sums: dict[str, float] = {}
        parts = batch.parts(settings.accumulate)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            weight = len(part.actions) / len(batch.actions)
            with nullcontext() if last else self.accelerator.no_sync(prepared):
                with self._arithmetic():
                    loss, metrics = prepared(part.to(device), share, generator)
                self.accelerator.backward(loss * weight)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * weight
        norm = nn.utils.clip_grad_norm_([p for _, p in self._named], settings.clip)
        if not torch.isfinite(norm):
            raise VlaPruneError(
                f'step {self.step}: the gradient is not finite', 'lower lr, or use float32'
            )
        self._optimizer.step()
        self.step += 1
        return {**sums, 'lr': rate}

    def _after(self, metrics: dict[str, float]) -> None:
        settings = self.settings
        ends = self.step == settings.steps
        main = self.accelerator.is_main_process
        if self.held is not None and (self.step % settings.validate_every == 0 or ends):
            metrics |= self.validate()
        self.accelerator.log(metrics, step=self.step)
        if main and (self.step % settings.save_every == 0 or ends):
            self._save()
        if main and settings.export_every and self.step % settings.export_every == 0 and not ends:
            folder = settings.out.with_name(f'{settings.out.name}-{self.step}')
            publish(self.policy, self.task.note(), settings, self.step, folder)

    def _arithmetic(self) -> torch.autocast:
        bfloat16 = self.settings.precision == 'bfloat16'
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bfloat16)

    @property
    def _state(self) -> Path:
        return self.settings.work / 'state.pt'

    def _save(self) -> None:
        state = {
            'settings': _comparable(self.settings),
            'step': self.step,
            'seconds': self.seconds,
            'weights': {name: p.detach() for name, p in self._named},
            'optimizer': self._optimizer.state_dict(),
        }
        save_state(state, self._state)

    def _resume(self) -> None:
        if not self._state.is_file():
            return
        state = torch.load(self._state, map_location=self.accelerator.device, weights_only=True)
        now = _comparable(self.settings)
        for name, value in state['settings'].items():
            if now.get(name) != value:
                raise CheckpointError(
                    f'{self._state} was begun with {name} {value}, not {now.get(name)}',
                    'use the same settings as then, or another work folder',
                )
        with torch.no_grad():
            for name, p in self._named:
                p.copy_(state['weights'][name])
        self._optimizer.load_state_dict(state['optimizer'])
        self.step, self.seconds = state['step'], state['seconds']


def finetune_learning_rate(step: int, settings: FineTuning) -> float:
    """Share of ``settings.lr``: a ramp, then a step down to 0.1 after three quarters, or a cosine
    down to 0.02."""
    warm = min(1.0, (step + 1) / max(1, settings.warm_up))
    if settings.schedule == 'cosine':
        return warm * cosine(step / settings.steps)
    return warm * (1.0 if step < 0.75 * settings.steps else 0.1)


def _accelerator(settings: FineTuning, device: str | None) -> 'Accelerator':
    try:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration
    except ImportError:
        raise VlaPruneError(
            'accelerate is not installed', 'install vla_prune_ros[train]'
        ) from None
    return Accelerator(
        cpu=device == 'cpu',
        log_with='tensorboard',
        project_config=ProjectConfiguration(str(settings.work), str(settings.work)),
    )


def _open(policy: Policy, data: Sequence[Data], augment: bool) -> Together:
    sources = []
    for entry in data:
        source = open_source(entry, policy.profile, policy.statistics)
        require_units(source, str(entry.path), policy.statistics)
        sources.append(source)
    return together(policy, sources, augment)


def _comparable(settings: FineTuning) -> dict[str, Any]:
    return settings.model_dump(mode='json', exclude=PLACES)
