"""The YAML file of a fine-tuning: what is trained, from what, and how long."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config import load_yaml
from ..errors import ProfileError


class _Strict(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class Data(_Strict):
    """One source of demonstrations.

    :param format: ``two_cubes``, ``libero_hdf5``, ``lerobot`` or ``rosbag``.
    :param path: file or folder.
    :param options: what else the source's class takes; see docs/training.md.
    """

    format: Literal['two_cubes', 'libero_hdf5', 'lerobot', 'rosbag']
    path: Path
    options: dict[str, Any] = {}


class Lora(_Strict):
    """Low-rank updates of all linear layers; head and state projector are trained whole.

    Defaults: the authors' (LightVLA ``LIBERO.md``, OpenVLA-OFT ``finetune.py``).
    """

    rank: int = Field(32, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class Noise(_Strict):
    """Uniform noise on the scores: its size falls linearly from ``first`` to ``last``.

    LightVLA: 1 to 0.
    """

    first: float = Field(1.0, ge=0)
    last: float = Field(0.0, ge=0)

    def at(self, progress: float) -> float:
        """Size after this ratio (0 .. 1) of the training."""
        return self.first + (self.last - self.first) * progress


class LightVLASettings(_Strict):
    """LightVLA, or LightVLA* where ``queries`` are given.

    :param noise: on the scores.
    :param shared_weight: a token that several rows voted for weighs as one, as at inference;
        published is false.
    :param queries: learned queries; 0 for the published ones without parameters.
    :param after: decoder layer behind which learned queries vote; -1: before the first.
    """

    method: Literal['lightvla'] = 'lightvla'
    noise: Noise = Noise()
    shared_weight: bool = False
    queries: int = Field(0, ge=0)
    after: int = Field(-1, ge=-1)


class ScorerSettings(_Strict):
    """VLA-ACL: a scorer beside a frozen policy.

    :param budget: visual tokens per camera. :param layers, width, heads: of the scorer.
    :param alpha: temperature of the soft top-K in the beginning and in the end.
    :param dense: weight of the distance to the dense policy's chunk; the demonstration's has the
        rest.
    """

    method: Literal['vla_acl'] = 'vla_acl'
    budget: int | tuple[int, ...] = 64
    layers: int = Field(5, ge=1)
    width: int = Field(512, ge=8)
    heads: int = Field(8, ge=1)
    alpha: tuple[float, float] = (2.0, 0.1)
    dense: float = Field(0.5, ge=0, le=1)


class FineTuning(_Strict):
    """A whole run.

    :param checkpoint: folder in the published layout to start from, or a name of the hub.
    :param out: folder of the checkpoint, in the published layout. :param work: folder of the
        unfinished state and of TensorBoard's files.
    :param train: what is learnt. :param data: demonstrations. :param validation: others, never
        trained on.
    :param steps: optimiser steps. :param batch: samples per step and process.
    :param accumulate: parts that a batch is cut into, to save memory.
    :param lr: of AdamW. :param schedule: ``step`` lowers it to a tenth after three quarters of the
        steps (the authors' 30 of 40 thousand), ``cosine`` down to 2 %. :param warm_up: steps.
    :param lora: null trains every weight but the embedding table.
    :param augment: crops and colours as OpenVLA-OFT's training has them; not for images that are
        cropped already. :param workers: processes that read data.
    :param precision: of the arithmetic. :param export_every: steps between checkpoints, 0 for one
        at the end. :param validate_every: steps between two validations, each on
        ``validation_samples`` samples.
    """

    checkpoint: str
    out: Path
    work: Path
    train: LightVLASettings | ScorerSettings = Field(discriminator='method')
    data: tuple[Data, ...] = Field(min_length=1)
    validation: tuple[Data, ...] = ()
    profile: str = 'libero'
    unnorm_key: str | None = None
    steps: int = Field(40_000, ge=1)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(5e-4, gt=0)
    schedule: Literal['step', 'cosine'] = 'step'
    warm_up: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    lora: Lora | None = Lora()
    augment: bool = True
    workers: int = Field(2, ge=0)
    precision: Literal['float32', 'bfloat16'] = 'bfloat16'
    dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
    seed: int = 0
    save_every: int = Field(500, ge=1)
    export_every: int = Field(0, ge=0)
    validate_every: int = Field(500, ge=1)
    validation_samples: int = Field(192, ge=1)


def read_settings(path: Path) -> FineTuning:
    """The file as settings.

    :raises ProfileError: it cannot be read, or a field is unknown or not usable.
    """
    try:
        return FineTuning.model_validate(load_yaml(path, 'training file'))
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(str(part) for part in first['loc'])
        raise ProfileError(f'{path}: {where}: {first["msg"]}', 'see docs/training.md') from None
