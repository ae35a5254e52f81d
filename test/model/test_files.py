"""What is written is what the published loaders expect: names, files, dtype, and back again.

In the released OFT+ files FiLM wraps a block as ``blocks.N.block`` with ``scale`` and ``shift``
beside it, components carry ``module.``, and towers with FiLM are not among the main weights.
"""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from vla_prune_ros.model.checkpoint import Variant, find_variant, read_size
from vla_prune_ros.model.files import write_configs, write_weights
from vla_prune_ros.model.openvla import OpenVLAOFT
from vla_prune_ros.model.synthetic import Preset, model_size
from vla_prune_ros.model.vision import film_tensors
from vla_prune_ros.profiles import LIBERO

SIZE = model_size(Preset((16, 3, 2), (20, 2, 2), 16, 24, 2, 2))
FILM_NAMES = """
    pos_embed patch_embed.proj.weight blocks.0.scale.weight blocks.0.shift.bias
    blocks.1.block.attn.qkv.weight blocks.1.block.ls1.scale_factor blocks.1.block.mlp.fc2.bias
"""


def weights(film):
    torch.manual_seed(0)
    return OpenVLAOFT(replace(SIZE, film=film)).state_dict()


@pytest.mark.parametrize('film', [False, True])
def test_every_weight_is_written_once_in_bfloat16(tmp_path, film):
    """And the index names the shard of each, and towers with FiLM have the published names."""
    state = weights(film)
    write_weights(tmp_path, state, film=film, step=7)
    shards = {path.name: load_file(path) for path in tmp_path.glob('*.safetensors')}
    index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
    assert index['weight_map'] == {name: file for file, shard in shards.items() for name in shard}
    found = {name: value for shard in shards.values() for name, value in shard.items()}
    assert index['metadata']['total_size'] == 2 * sum(v.numel() for v in found.values())
    assert film != any(name.startswith('vision_backbone') for name in found)
    parts = {
        path.name: torch.load(path, weights_only=True) for path in tmp_path.glob('*_checkpoint.pt')
    }
    components = ('action_head', 'proprio_projector', *(('vision_backbone',) * film))
    assert set(parts) == {f'{component}--7_checkpoint.pt' for component in components}
    for file, part in parts.items():
        assert all(name.startswith('module.') for name in part)
        component = file.split('--')[0]
        plain = {name.removeprefix('module.'): value for name, value in part.items()}
        if component == 'vision_backbone':
            assert {f'vision_backbone.featurizer.{name}' for name in FILM_NAMES.split()} <= set(
                plain
            )
            of_blocks = [name.split('.blocks.')[1] for name in plain if '.blocks.' in name]
            assert {n.split('.')[1] for n in of_blocks} == {'block', 'scale', 'shift'}
            found.update(film_tensors(plain))
        else:
            found.update({f'{component}.{name}': value for name, value in plain.items()})
    written = [*shards.values(), *parts.values()]
    assert set(found) == set(state) and len(found) == sum(map(len, written))
    for name, value in found.items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, state[name].bfloat16()), name


@pytest.mark.parametrize('film', [False, True])
def test_the_shapes_are_read_back(tmp_path, film):
    write_weights(tmp_path, weights(film), film=film)
    write_configs(tmp_path, replace(SIZE, film=film))
    variant = find_variant(tmp_path, LIBERO)
    assert variant == Variant('l1', proprio=True, film=film)
    size = read_size(tmp_path, LIBERO, variant)
    assert (size.dino, size.siglip, size.film) == (SIZE.dino, SIZE.siglip, film)
    for field in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers'):
        assert getattr(size.text, field) == getattr(SIZE.text, field)
    ids = json.loads((tmp_path / 'generation_config.json').read_text())
    assert (ids['bos_token_id'], ids['eos_token_id'], ids['pad_token_id']) == (1, 2, 32000)


def test_others_may_read_every_file(tmp_path):
    before = os.umask(0o022)
    try:
        write_weights(tmp_path, weights(False), film=False)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes and set(modes.values()) == {0o644}, modes
