"""Trained policies as checkpoint folders in the published layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine.load import UNTRAINED_NOTE
from ..engine.policy import Policy
from ..model.export import write_configs, write_json, write_weights
from ..model.openvla import ModelSize, OpenVLAOFT
from ..model.synthetic import VOCABULARY
from ..pruning.trained import write_trained
from .config import FineTuning, LightVLASettings
from .lora import merged
from .tasks.policy import ReferenceNet, Words, make_tokenizer, with_vocabulary

STATISTICS_KEY = 'two_cubes'


def export(
    net: ReferenceNet,
    words: Words,
    *,
    folder: Path,
    statistics: Mapping[str, Any],
    step: int,
    about: Mapping[str, Any],
) -> None:
    """Write weights, configuration, statistics, tokeniser and a note.

    :param words: places the trained rows of the embedding table; all others are zero.
    :param about: goes into ``vla_prune.json``.
    """
    policy: OpenVLAOFT = net.policy
    weights = {k: v.detach().cpu() for k, v in policy.state_dict().items()}
    table = 'language_model.model.embed_tokens.weight'
    weights[table] = words.full_table(weights[table], VOCABULARY)
    _write_policy(folder, weights, with_vocabulary(policy.size, VOCABULARY), step)
    write_json(folder / 'dataset_statistics.json', {STATISTICS_KEY: statistics})
    make_tokenizer().save(str(folder / 'tokenizer.json'))
    write_json(folder / 'vla_prune.json', {'trained': True, **about})


def _write_policy(folder: Path, weights: Mapping[str, Tensor], size: ModelSize, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*_checkpoint.pt'):  # another step's component would make it ambiguous
        old.unlink()
    write_weights(folder, weights, film=size.film, step=step)
    write_configs(folder, size)


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
        weights = {name: value.cpu() for name, value in merged(policy.model).items()}
        _write_policy(folder, weights, policy.model.size, step)
        _copy(policy.checkpoint, folder)
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
