"""Loading: what a broken folder says, and what a good one gives; the full-size model on the meta
device: counts of the original classes, names and shapes of the files that they wrote."""

import json
import shutil
from dataclasses import replace
from math import prod

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.model.checkpoint import (
    Variant,
    find_variant,
    load_model,
    published_shapes,
    read_size,
)
from vla_prune_ros.model.normalization import read_statistics
from vla_prune_ros.model.openvla import ModelSize, OpenVLAOFT
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.model.vision import dino_size, siglip_size
from vla_prune_ros.profiles import LIBERO

HEAD = 'action_head--150000_checkpoint.pt'
STATISTICS = 'dataset_statistics.json'


@pytest.fixture
def folder(data_dir, tmp_path):
    return shutil.copytree(data_dir / 'micro' / 'checkpoint', tmp_path / 'checkpoint')


def load(folder):
    return load_model(folder, LIBERO, find_variant(folder, LIBERO), 'cpu', torch.float32)


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_weights_keep_their_values_and_the_unused_are_not_kept(folder):
    """From two shards, and from a single file."""
    parts = [folder / f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    stored = {**load_file(parts[0]), **load_file(parts[1])}
    read = dict(load(folder).named_parameters())
    mine = {n: p for n, p in read.items() if not n.startswith(('action_head', 'proprio_proj'))}
    assert len(mine) > 60 and all(torch.equal(p, stored[n].float()) for n, p in mine.items())
    unused = stored.keys() - mine.keys()
    assert 'language_model.lm_head.weight' in unused
    parts_of = ('attn_pool', '.norm.', 'lm_head', 'blocks.2.', 'blocks.3.')
    assert all(any(part in name for part in parts_of) for name in unused)
    save_file(stored, folder / 'model.safetensors')
    save_file({'queries': stored['projector.fc1.bias']}, folder / 'pruning.safetensors')
    for file in (*parts, folder / 'model.safetensors.index.json'):
        file.unlink()
    again = load(folder).state_dict()
    assert all(torch.equal(again[name], value) for name, value in read.items())


def _lacks_a_tensor(folder):
    shard = folder / 'model-00001-of-00002.safetensors'
    state = load_file(shard)
    del state['projector.fc1.bias']
    save_file(state, shard)


def _wrong_shape(folder):
    state = torch.load(folder / HEAD, weights_only=True)
    state['module.model.fc2.weight'] = state['module.model.fc2.weight'][:3]
    torch.save(state, folder / HEAD)


@pytest.mark.parametrize(
    ('harm', 'says'),
    [
        (lambda f: (f / 'config.json').write_text('{'), 'config.json'),
        (lambda f: edit_json(f / 'config.json', lambda c: c.update(model_type='x')), 'OpenVLA'),
        (_lacks_a_tensor, 'projector.fc1.bias'),
        (lambda f: shutil.copy(f / HEAD, f / f'5{HEAD}'), 'exactly one action_head'),
        (lambda f: (f / HEAD).write_bytes(b'cos\nsystem\n(S"true"\ntR.'), 'plain state dict'),
        (_wrong_shape, r'module|action_head.model.fc2.weight is \(3, 64\), expected \(7, 64\)'),
    ],
)
def test_a_broken_folder_is_named_in_one_line(folder, harm, says):
    harm(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(folder)
    assert '\n' not in str(caught.value)


def test_unnorm_key_is_chosen_or_the_keys_are_listed(folder):
    assert read_statistics(folder, LIBERO, None).key == 'libero_spatial_no_noops'
    assert read_statistics(folder, LIBERO, 'libero_spatial').key == 'libero_spatial_no_noops'
    with pytest.raises(CheckpointError, match=r"'bridge' is not in .*libero_spatial_no_noops"):
        read_statistics(folder, LIBERO, 'bridge')
    edit_json(folder / STATISTICS, lambda d: d.update(other=d['libero_spatial_no_noops']))
    with pytest.raises(
        CheckpointError, match=r"set unnorm_key to one of \['libero_spatial_no_noops', 'other'\]"
    ):
        read_statistics(folder, LIBERO, None)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda e: e['action']['q01'].pop(), 'dimensions'),
        (lambda e: e['proprio']['q99'].__setitem__(0, float('nan')), 'not finite'),
        (lambda e: e['action'].pop('q01'), 'no usable q01/q99'),
    ],
)
def test_bad_statistics_are_named(folder, change, says):
    edit_json(folder / STATISTICS, lambda d: change(d['libero_spatial_no_noops']))
    with pytest.raises(CheckpointError, match=says):
        read_statistics(folder, LIBERO, None)


def test_a_synthetic_checkpoint_is_reproducible_and_labelled(tmp_path):
    first, second = (make_checkpoint(tmp_path / name, 'micro', seed=3) for name in 'ab')
    other = make_checkpoint(tmp_path / 'c', 'micro', seed=4)
    weights = [load(f).state_dict() for f in (first, second, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]['projector.fc1.weight'], weights[2]['projector.fc1.weight'])
    assert json.loads((first / 'vla_prune.json').read_text())['trained'] is False


def test_a_synthetic_checkpoint_never_overwrites_a_real_one(folder):
    with pytest.raises(CheckpointError, match='not a synthetic checkpoint'):
        make_checkpoint(folder, 'micro')


SEVEN_B = ModelSize(dino_size(), siglip_size(), LlamaConfig(vocab_size=32064), 7, 8)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_entries_and_parameters():
    """Of which 43 tower entries and ``lm_head`` are not kept."""
    shapes = published_shapes(SEVEN_B)
    assert len(shapes) == 982
    assert sum(prod(s) for s in shapes.values()) == 7_541_237_184
    with torch.device('meta'):
        unused = shapes.keys() - OpenVLAOFT(SEVEN_B).state_dict().keys()
    assert len(unused) == 43 + 1 and 'language_model.lm_head.weight' in unused


def test_components_and_film():
    """FiLM: scale and shift of all 24 + 27 blocks; we keep those of the 49 that run."""
    with torch.device('meta'):
        plain, film = (OpenVLAOFT(replace(SEVEN_B, film=f)) for f in (False, True))
        aloha = OpenVLAOFT(replace(SEVEN_B, action_dim=14, proprio_dim=14))
    for model, head in ((plain, 151.1), (aloha, 268.6)):
        assert round(count(model.action_head) / 1e6, 1) == head
        assert round(count(model.proprio_projector) / 1e6, 1) == 16.8
    last = 2 * (4096 + 1) * (1024 + 1152)
    assert round((count(film) - count(plain) + last) / 1e6, 1) == 456.2


def test_the_names_are_those_the_original_code_wrote(data_dir):
    folder = data_dir / 'micro' / 'checkpoint'
    size = read_size(folder, LIBERO, Variant('l1', proprio=True, film=False))
    stored = {n: t for file in folder.glob('*.safetensors') for n, t in load_file(file).items()}
    assert published_shapes(size) == {name: tuple(t.shape) for name, t in stored.items()}
