"""The full-size model on the meta device: names, shapes and counts of the released checkpoints.

982 entries, 7 541 237 184 parameters, 268 and 151 million for the heads: from the original
classes; the micro folder's index lists the names that the original code wrote.
"""

from dataclasses import replace
from math import prod

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig

from vla_prune_ros.model.checkpoint import Variant, published_shapes, read_size
from vla_prune_ros.model.openvla import ModelSize, OpenVLAOFT
from vla_prune_ros.model.vision import dino_size, siglip_size
from vla_prune_ros.profiles import LIBERO

SEVEN_B = ModelSize(dino_size(), siglip_size(), LlamaConfig(vocab_size=32064), 7, 8)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_entries_and_parameters():
    shapes = published_shapes(SEVEN_B)
    assert len(shapes) == 982
    assert sum(prod(s) for s in shapes.values()) == 7_541_237_184


def test_43_tower_entries_and_lm_head_are_not_kept():
    with torch.device('meta'):
        kept = OpenVLAOFT(SEVEN_B).state_dict()
    unused = [n for n in published_shapes(SEVEN_B) if n not in kept]
    assert len(unused) == 43 + 1 and 'language_model.lm_head.weight' in unused


@pytest.mark.parametrize(
    ('change', 'head', 'proprio'),
    [({}, 151.1, 16.8), ({'action_dim': 14, 'proprio_dim': 14}, 268.6, 16.8)],
)
def test_components(change, head, proprio):
    with torch.device('meta'):
        model = OpenVLAOFT(replace(SEVEN_B, **change))
    assert round(count(model.action_head) / 1e6, 1) == head
    assert round(count(model.proprio_projector) / 1e6, 1) == proprio


def test_film_adds_456_million_parameters_with_the_last_blocks():
    """Scale and shift of all 24 + 27 blocks; we keep those of the 49 that run."""
    with torch.device('meta'):
        plain, film = (OpenVLAOFT(replace(SEVEN_B, film=f)) for f in (False, True))
    added = count(film) - count(plain)
    last = 2 * (4096 + 1) * (1024 + 1152)
    assert round((added + last) / 1e6, 1) == 456.2


def test_the_names_are_those_the_original_code_wrote(data_dir):
    folder = data_dir / 'micro' / 'checkpoint'
    size = read_size(folder, LIBERO, Variant('l1', proprio=True, film=False))
    stored = {}
    for file in folder.glob('*.safetensors'):
        with safe_open(file, 'pt') as shard:
            stored.update({n: tuple(shard.get_slice(n).get_shape()) for n in shard.keys()})  # noqa: SIM118
    assert published_shapes(size) == stored
