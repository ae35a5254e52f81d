"""A fine-tuned policy as a checkpoint folder in the published layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine.load import UNTRAINED_NOTE
from ..engine.policy import Policy
from ..model.writing import write_configs, write_json, write_weights
from ..pruning.trained import write_trained
from .lora import merged
from .settings import FineTuning, LightVLASettings

COPIED = (
    'dataset_statistics.json',
    'tokenizer.json',
    'tokenizer.model',
    'tokenizer_config.json',
    'preprocessor_config.json',
)


def publish(
    policy: Policy,
    note: tuple[str, Mapping[str, Any], Mapping[str, Tensor]],
    settings: FineTuning,
    step: int,
    folder: Path | None = None,
) -> None:
    """Write ``folder``, default ``settings.out``.

    After LightVLA a whole checkpoint: weights with the low-rank updates added, configuration,
    statistics and tokeniser of the one that it started from, and the note. After a scorer's
    training the note and its tensors alone, for the policy stayed what it was.
    """
    folder = settings.out if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(settings.train, LightVLASettings):
        for old in folder.glob('*_checkpoint.pt'):  # of another step: two would be ambiguous
            old.unlink()
        size = policy.model.size
        weights = {name: value.cpu() for name, value in merged(policy.model).items()}
        write_weights(folder, weights, film=size.film, step=step)
        write_configs(folder, size)
        _copy(Path(policy.describe()['checkpoint']), folder)
    trained = {
        'steps': step,
        'settings': settings.model_dump(mode='json', exclude={'out', 'work'}),
    }
    write_json(folder / UNTRAINED_NOTE, {'trained': not policy.untrained, **trained})
    method, about, tensors = note
    write_trained(folder, method, about, tensors)


def _copy(source: Path, folder: Path) -> None:
    for name in COPIED:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
