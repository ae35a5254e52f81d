"""The optimisation loop of every training here: schedule, averaged weights, metrics, resume."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError, VlaPruneError

FORMAT = 2  # of the state file
POINT_EVERY = 100
_KEEP = 0.97  # of the running mean


@dataclass(frozen=True)
class Schedule:
    steps: int
    lr: float  # the peak
    # After a linear ramp of ``warm_up`` steps, half a cosine down to 2 % of the peak; or a
    # tenth of it from three quarters of the steps on (OpenVLA-OFT's 30 of 40 thousand).
    kind: Literal['step', 'cosine'] = 'cosine'
    warm_up: int = 0
    clip: float = 1.0  # largest norm of the gradient
    average: float | None = None  # ratio of the weights' running mean that a step keeps

    def rate(self, step: int) -> float:
        ramp = min(1.0, (step + 1) / max(1, self.warm_up))
        if self.kind == 'step':
            return self.lr * (ramp * (1.0 if step < 0.75 * self.steps else 0.1))
        cosine = 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (step / self.steps)))
        return self.lr * (ramp * cosine)


@dataclass
class Curve:
    points: list[dict[str, float]]  # ``step`` and the running mean of each metric
    seconds: float  # spent in all sessions of the run
    mean: dict[str, float]

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.mean[name] = _KEEP * self.mean.get(name, value) + (1.0 - _KEEP) * value
        if step % POINT_EVERY == 0:
            rounded = {name: round(value, 4) for name, value in self.mean.items()}
            self.points.append({'step': step, **rounded})

    def text(self) -> str:
        return '  '.join(f'{name} {value:.4f}' for name, value in self.mean.items())


class Trainer:
    """One run of an optimiser; goes on where its state file ends. That equals an uninterrupted run
    if the loss of a step follows from the step's number and the weights alone.

    :param settings: plain values that a run must have in common with its state file.
    :raises CheckpointError: the file was written with other settings, or by an older version.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        schedule: Schedule,
        state: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.weights, self.schedule = dict(weights), schedule
        self.step, self.curve = 0, Curve([], 0.0, {})
        self.average: dict[str, Tensor] = {}
        if schedule.average is not None:
            self.average = {name: p.detach().clone() for name, p in weights.items()}
        self._optimizer, self._state, self._settings = optimizer, state, dict(settings)
        if state.is_file():
            self._resume()

    def run(
        self,
        backward: Callable[[int], dict[str, float]],
        report: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
        save_every: int = 200,
        writes_state: bool = True,
    ) -> dict[str, float]:
        """Go on to the schedule's last step; returns the last step's metrics.

        :param backward: adds the gradient of a step (from 0) to the weights, and gives metrics.
        :param report: called after each step with its number and metrics, to which it may add.
        :param writes_state: False in all processes of a run but one.
        """
        metrics: dict[str, float] = {}
        since = time.monotonic()
        while self.step < self.schedule.steps:
            metrics = self._one_step(backward)
            now = time.monotonic()
            self.curve.seconds, since = self.curve.seconds + now - since, now
            self.curve.add(self.step, metrics)
            report(self.step, metrics)
            due = self.step % save_every == 0 or self.step == self.schedule.steps
            if writes_state and due:
                self._save()
        return metrics

    def use_average(self) -> None:
        with torch.no_grad():
            for name, mean in self.average.items():
                self.weights[name].copy_(mean)

    def _one_step(self, backward: Callable[[int], dict[str, float]]) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group['lr'] = self.schedule.rate(self.step)
        self._optimizer.zero_grad()
        metrics = backward(self.step)
        norm = nn.utils.clip_grad_norm_(list(self.weights.values()), self.schedule.clip)
        if not torch.isfinite(norm):
            raise VlaPruneError(
                f'step {self.step}: the gradient is not finite', 'lower lr, or use float32'
            )
        self._optimizer.step()
        self.step += 1
        if self.schedule.average is not None:
            # The first steps forget faster: the weights that they start from are random.
            keep = min(self.schedule.average, (1 + self.step) / (10 + self.step))
            means, weights = list(self.average.values()), list(self.weights.values())
            with torch.no_grad():
                torch._foreach_lerp_(means, weights, 1.0 - keep)
        return metrics

    def _save(self) -> None:
        state = {
            'format': FORMAT,
            'settings': self._settings,
            'step': self.step,
            'weights': {name: p.detach() for name, p in self.weights.items()},
            'average': self.average,
            'optimizer': self._optimizer.state_dict(),
            'curve': asdict(self.curve),
        }
        self._state.parent.mkdir(parents=True, exist_ok=True)
        part = self._state.with_suffix('.part')
        torch.save(state, part)
        part.replace(self._state)  # whole at any moment: a run that is cut leaves the one before

    def _resume(self) -> None:
        device = next(iter(self.weights.values())).device
        state = torch.load(self._state, map_location=device, weights_only=True)
        if state.get('format') != FORMAT:
            raise CheckpointError(
                f'{self._state} is the state of an older version of vla_prune_ros',
                'finish the run with that version, or use another work folder',
            )
        for name, value in state['settings'].items():
            if self._settings.get(name) != value:
                raise CheckpointError(
                    f'{self._state} was begun with {name} {value}, not {self._settings.get(name)}',
                    'use the same settings as then, or another work folder',
                )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state['weights'][name])
            for name, mean in self.average.items():
                mean.copy_(state['average'][name])
        self._optimizer.load_state_dict(state['optimizer'])
        self.step, self.curve = state['step'], Curve(**state['curve'])
