"""One optimisation after another: losses, schedule, averaged weights, and a state on disk."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ProfileError
from .curve import Curve
from .dataset import OFFSET_UNIT_M, Batch, Samples
from .reference_model import ReferenceNet
from .state_file import save_state

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
