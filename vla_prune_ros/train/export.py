"""A trained reference policy as a checkpoint folder in the published layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model.openvla import OpenVLAOFT
from ..model.synthetic import VOCABULARY
from ..model.writing import write_configs, write_json, write_weights
from .reference_model import ReferenceNet, Words, make_tokenizer, with_vocabulary

STATISTICS_KEY = 'two_cubes'


def export(
    net: ReferenceNet,
    words: Words,
    statistics: Mapping[str, Any],
    folder: Path,
    step: int,
    about: Mapping[str, Any],
) -> None:
    """Write weights, configuration, statistics, tokeniser and a note.

    :param words: places the trained rows of the embedding table; all others are zero.
    :param statistics: see :func:`~vla_prune_ros.train.dataset.describe_numbers`.
    :param about: goes into ``vla_prune.json``.
    """
    policy: OpenVLAOFT = net.policy
    weights = {k: v.detach().cpu() for k, v in policy.state_dict().items()}
    table = 'language_model.model.embed_tokens.weight'
    weights[table] = words.full_table(weights[table], VOCABULARY)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*_checkpoint.pt'):  # another step's component would make it ambiguous
        old.unlink()
    write_weights(folder, weights, film=True, step=step)
    write_configs(folder, with_vocabulary(policy.size, VOCABULARY))
    write_json(folder / 'dataset_statistics.json', {STATISTICS_KEY: statistics})
    make_tokenizer().save(str(folder / 'tokenizer.json'))
    write_json(folder / 'vla_prune.json', {'trained': True, **about})
