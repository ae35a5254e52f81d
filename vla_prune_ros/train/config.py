"""The YAML file of a fine-tuning: what is trained, from what, and how long."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config import load_yaml
from ..errors import ProfileError


class _Strict(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class Data(_Strict):
    format: Literal['two_cubes', 'libero_hdf5', 'lerobot', 'rosbag']
    path: Path
    options: dict[str, Any] = {}  # what else the source takes; see docs/training.md


class Lora(_Strict):
    # Of all linear layers; defaults as LightVLA's and OpenVLA-OFT's authors have.
    rank: int = Field(32, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class Noise(_Strict):
    """Uniform noise on the scores; its size falls linearly, LightVLA: from 1 to 0."""

    first: float = Field(1.0, ge=0)
    last: float = Field(0.0, ge=0)

    def at(self, progress: float) -> float:
        return self.first + (self.last - self.first) * progress


class LightVLASettings(_Strict):
    method: Literal['lightvla'] = 'lightvla'
    noise: Noise = Noise()
    # A token that several rows voted for weighs as one, as at inference; published is false.
    shared_weight: bool = False
    queries: int = Field(0, ge=0)  # learned ones; 0 for the published ones without parameters
    after: int = Field(-1, ge=-1)  # layer behind which learned queries vote; -1: before the first


class ScorerSettings(_Strict):
    method: Literal['vla_acl'] = 'vla_acl'
    budget: int | tuple[int, ...] = 64  # visual tokens per camera
    layers: int = Field(5, ge=1)
    width: int = Field(512, ge=8)
    heads: int = Field(8, ge=1)
    alpha: tuple[float, float] = (2.0, 0.1)  # temperature of the soft top-K, from ... to
    # Weight of the distance to the dense policy's chunk; the demonstration's has the rest.
    dense: float = Field(0.5, ge=0, le=1)


class FineTuning(_Strict):
    checkpoint: str  # folder in the published layout to start from, or a name of the hub
    out: Path  # folder of the checkpoint, in the published layout
    work: Path  # of the unfinished state and of TensorBoard's files
    train: LightVLASettings | ScorerSettings = Field(discriminator='method')
    data: tuple[Data, ...] = Field(min_length=1)
    validation: tuple[Data, ...] = ()
    profile: str = 'libero'
    unnorm_key: str | None = None
    steps: int = Field(40_000, ge=1)
    batch: int = Field(8, ge=1)  # samples per step and process
    accumulate: int = Field(1, ge=1)  # parts that a batch is cut into, to save memory
    lr: float = Field(5e-4, gt=0)
    schedule: Literal['step', 'cosine'] = 'step'  # see trainer.Schedule
    warm_up: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    lora: Lora | None = Lora()  # null trains every weight but the embedding table
    augment: bool = True  # as OpenVLA-OFT's training; not for images that are cropped already
    workers: int = Field(2, ge=0)  # processes that read data
    precision: Literal['float32', 'bfloat16'] = 'bfloat16'
    dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
    seed: int = 0
    save_every: int = Field(500, ge=1)
    export_every: int = Field(0, ge=0)  # steps between checkpoints, 0 for one at the end
    validate_every: int = Field(500, ge=1)
    validation_samples: int = Field(192, ge=1)


def read_settings(path: Path) -> FineTuning:
    try:
        return FineTuning.model_validate(load_yaml(path, 'training file'))
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(str(part) for part in first['loc'])
        raise ProfileError(f'{path}: {where}: {first["msg"]}', 'see docs/training.md') from None
