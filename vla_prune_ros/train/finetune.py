"""The loop of a fine-tuning, on one device or many: steps, metrics, resume, checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..engine.load import load_policy
from ..engine.policy import Policy
from ..errors import CheckpointError, VlaPruneError
from .batches import Labelled, StepBatches, Together, loader, together
from .learner import cosine
from .publish import publish
from .settings import Data, FineTuning
from .sources.registry import open_source
from .state_file import save_state
from .tasks import make_task
from .units import require_units

if TYPE_CHECKING:
    from accelerate import Accelerator

Report = Callable[[int, Mapping[str, float]], None]
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

    def run(self, report: Report = lambda step, metrics: None) -> dict[str, Any]:
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
        rate = settings.lr * learning_rate(self.step, settings)
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


def learning_rate(step: int, settings: FineTuning) -> float:
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
