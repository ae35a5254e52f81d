"""Trained policies as checkpoint folders in the published layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..engine.load import UNTRAINED_NOTE
from ..engine.policy import Policy
from ..model.files import write_configs, write_json, write_weights
from ..model.openvla import ModelSize
from ..model.synthetic import VOCABULARY
from ..pruning.layout import write_trained
from .config import FineTuning, LightVLASettings
from .tasks.policy import ReferenceNet, Words, make_tokenizer, with_vocabulary

COPIED = (
    'dataset_statistics.json',
    'tokenizer.json',
    'tokenizer.model',
    'tokenizer_config.json',
    'preprocessor_config.json',
)


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
    weights = {k: v.detach().cpu() for k, v in net.policy.state_dict().items()}
    table = 'language_model.model.embed_tokens.weight'
    weights[table] = words.full_table(weights[table], VOCABULARY)
    _write_policy(folder, weights, with_vocabulary(net.policy.size, VOCABULARY), step)
    write_json(folder / 'dataset_statistics.json', {'two_cubes': statistics})
    make_tokenizer().save(str(folder / 'tokenizer.json'))
    write_json(folder / 'vla_prune.json', {'trained': True, **about})


def publish(
    policy: Policy,
    note: tuple[str, Mapping[str, Any], Mapping[str, Tensor]],
    settings: FineTuning,
    step: int,
    folder: Path,
) -> None:
    """After LightVLA a complete checkpoint: merged weights, configuration, statistics and
    tokeniser of the one that it started from, and the note. After a scorer's training the note
    and its tensors alone, for the policy stayed what it was."""
    if isinstance(settings.train, LightVLASettings):
        weights = {name: value.cpu() for name, value in merged(policy.model).items()}
        _write_policy(folder, weights, policy.model.size, step)
        for file in (policy.checkpoint / name for name in COPIED):
            if file.is_file() and file.parent.resolve() != folder.resolve():
                shutil.copyfile(file, folder / file.name)
    method, trained, tensors = note
    write_trained(folder, method, trained, tensors)
    plain = settings.model_dump(mode='json', exclude={'out', 'work'})
    about = {'trained': not policy.untrained, 'steps': step, 'settings': plain}
    write_json(folder / UNTRAINED_NOTE, about)


def merged(policy: nn.Module) -> dict[str, Tensor]:
    """The state dict with peft's low-rank updates added in float32, under the names that it had
    before them; the modules stay as they are."""
    weights = {}
    for name, value in policy.state_dict().items():
        if '.lora_' in name:
            continue
        owner, _, leaf = name.rpartition('.')
        if owner.endswith('.base_layer') and leaf == 'weight':
            layer = policy.get_submodule(owner.removesuffix('.base_layer'))
            delta = layer.get_delta_weight('default')
            value = (value.float() + delta.float()).to(value.dtype)
        weights[name.replace('.base_layer.', '.')] = value.detach()
    return weights


def _write_policy(folder: Path, weights: Mapping[str, Tensor], size: ModelSize, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*_checkpoint.pt'):  # another step's component would make it ambiguous
        old.unlink()
    write_weights(folder, weights, film=size.film, step=step)
    write_configs(folder, size)
