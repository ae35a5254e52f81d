"""Fine-tuning of a checkpoint after a YAML file, on one device or, by accelerate, on many."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..engine.load import load_policy
from ..engine.policy import Policy
from ..errors import CheckpointError
from .collate import StepBatches, TrainingBatch, TrainingData, loader
from .config import Data, FineTuning, LightVLASettings
from .publish import publish
from .sources.base import library, open_source, require_units
from .tasks.acl_scorer import ScorerTask
from .tasks.lightvla import LightVLATask
from .trainer import Schedule, Trainer

# Settings that may differ when a run goes on.
CHANGEABLE = {
    'out',
    'work',
    'workers',
    'save_every',
    'export_every',
    'validate_every',
    'validation_samples',
}
VALIDATION_BATCH = 16


class FineTuner:
    """One run, or the rest of one that ``work`` holds the state of; every process of a multi-GPU
    run holds one. Without a ``device`` accelerate chooses it.

    :raises VlaPruneError: accelerate is not installed, data or checkpoint are not usable, or
        ``work`` holds the state of another run.
    """

    def __init__(self, settings: FineTuning, device: str | None = None) -> None:
        self.settings = settings
        self.accelerator = _accelerator(settings.work, device)
        self.policy = load_policy(
            settings.checkpoint,
            settings.profile,
            device=str(self.accelerator.device),
            dtype=settings.dtype,
            unnorm_key=settings.unnorm_key,
        )
        self.task = make_task(self.policy, settings)
        self.data = self._open(settings.data, settings.augment)
        self.held_out = self._open(settings.validation, False) if settings.validation else None
        weights = {n: p for n, p in self.task.named_parameters() if p.requires_grad}
        self.trainer = Trainer(
            weights,
            torch.optim.AdamW(weights.values(), settings.lr, weight_decay=settings.weight_decay),
            Schedule(
                steps=settings.steps,
                lr=settings.lr,
                kind=settings.schedule,
                warm_up=settings.warm_up,
                clip=settings.clip,
            ),
            settings.work / 'state.pt',
            settings.model_dump(mode='json', exclude=CHANGEABLE),
        )

    def run(
        self, report: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    ) -> dict[str, Any]:
        """Train to the last step and write the checkpoint; steps, seconds, the last metrics."""
        settings, accelerator, trainer = self.settings, self.accelerator, self.trainer
        prepared = accelerator.prepare(self.task)
        accelerator.init_trackers('tensorboard')
        order = StepBatches(
            self.data.prompt_lengths(),
            batch=settings.batch,
            steps=(trainer.step, settings.steps),
            seed=settings.seed,
            rank=accelerator.process_index,
        )
        batches = iter(loader(self.data, order, settings.workers))

        def after_step(step: int, metrics: dict[str, float]) -> None:
            self._after_step(step, metrics)
            report(step, metrics)

        metrics = trainer.run(
            lambda step: self._backward(prepared, batches, step),
            after_step,
            settings.save_every,
            accelerator.is_main_process,
        )
        accelerator.end_training()
        if accelerator.is_main_process:
            publish(self.policy, self.task.note(), settings, trainer.step, settings.out)
        return {'steps': trainer.step, 'seconds': round(trainer.curve.seconds), **metrics}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean metrics of held-out samples, pruned as at inference; empty without any."""
        if self.held_out is None:
            return {}
        batch = min(self.settings.batch, VALIDATION_BATCH)
        steps = max(1, self.settings.validation_samples // batch)
        order = StepBatches(self.held_out.prompt_lengths(), batch=batch, steps=(0, steps), seed=1)
        progress = self.trainer.step / self.settings.steps
        sums: dict[str, float] = {}
        for samples in loader(self.held_out, order, 0):
            with self._arithmetic():
                _, metrics = self.task(samples.to(self.accelerator.device), progress)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(order)
        return {f'validation/{name}': value for name, value in sums.items()}

    def _backward(
        self, prepared: nn.Module, batches: Iterator[TrainingBatch], step: int
    ) -> dict[str, float]:
        settings, device = self.settings, self.accelerator.device
        batch = next(batches)
        # Of the step and process alone, so that a resumed run draws the same noise.
        seed = (settings.seed * 1_000_003 + step) * 997 + self.accelerator.process_index
        generator = torch.Generator(device).manual_seed(seed)
        sums: dict[str, float] = {}
        parts = batch.parts(settings.accumulate)
        for number, part in enumerate(parts, start=1):
            ratio = len(part.actions) / len(batch.actions)
            # Processes exchange gradients once per step, with the last part.
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(prepared):
                with self._arithmetic():
                    loss, metrics = prepared(part.to(device), step / settings.steps, generator)
                self.accelerator.backward(loss * ratio)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * ratio
        return sums

    def _after_step(self, step: int, metrics: dict[str, float]) -> None:
        settings = self.settings
        last = step == settings.steps
        metrics['lr'] = self.trainer.schedule.rate(step - 1)
        if step % settings.validate_every == 0 or last:
            metrics |= self.validate()
        self.accelerator.log(metrics, step=step)
        due = settings.export_every and step % settings.export_every == 0 and not last
        if due and self.accelerator.is_main_process:
            folder = settings.out.with_name(f'{settings.out.name}-{step}')
            publish(self.policy, self.task.note(), settings, step, folder)

    def _arithmetic(self) -> torch.autocast:
        bfloat16 = self.settings.precision == 'bfloat16'
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bfloat16)

    def _open(self, data: Sequence[Data], augment: bool) -> TrainingData:
        policy, sources = self.policy, []
        for entry in data:
            source = open_source(entry, policy.profile, policy.statistics)
            require_units(source, str(entry.path), policy.statistics)
            sources.append(source)
        return TrainingData(
            sources, policy.profile, policy.statistics, policy.tokenizer, augment=augment
        )


def make_task(policy: Policy, settings: FineTuning) -> LightVLATask | ScorerTask:
    """The module whose forward pass is the loss; ``requires_grad`` says what it trains."""
    head = policy.model.size.head
    if head != 'l1':
        raise CheckpointError(
            f'{settings.checkpoint} has a {head} head', 'start from a checkpoint with an L1 head'
        )
    lightvla = isinstance(settings.train, LightVLASettings)
    return (LightVLATask if lightvla else ScorerTask)(policy, settings)


def _accelerator(work: Path, device: str | None) -> Any:
    accelerate = library('accelerate')
    configuration = accelerate.utils.ProjectConfiguration(str(work), str(work))
    return accelerate.Accelerator(
        cpu=device == 'cpu', log_with='tensorboard', project_config=configuration
    )
