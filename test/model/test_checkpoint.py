"""Loading: what a broken folder says, and what a good one gives."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.model.checkpoint import find_variant, load_model
from vla_prune_ros.model.normalization import read_statistics
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.profiles import ALOHA, LIBERO

HEAD = 'action_head--150000_checkpoint.pt'
STATISTICS = 'dataset_statistics.json'


@pytest.fixture
def folder(data_dir, tmp_path):
    return shutil.copytree(data_dir / 'micro' / 'checkpoint', tmp_path / 'checkpoint')


def load(folder, profile=LIBERO):
    variant = find_variant(folder, profile)
    return load_model(folder, profile, variant, 'cpu', torch.float32)


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_weights_keep_their_values_and_the_unused_are_not_kept(folder):
    model = load(folder)
    stored = {
        **load_file(folder / 'model-00001-of-00002.safetensors'),
        **load_file(folder / 'model-00002-of-00002.safetensors'),
    }
    names = dict(model.named_parameters())
    for name in (
        'projector.fc2.weight',
        'language_model.model.norm.weight',
        'vision_backbone.featurizer.blocks.0.ls1.scale_factor',
    ):
        torch.testing.assert_close(names[name], stored[name].float(), rtol=0, atol=0)
    unused = [n for n in stored if n not in names]
    assert 'language_model.lm_head.weight' in unused
    assert all(
        'attn_pool' in n or '.norm.' in n or 'lm_head' in n or 'blocks.2.' in n or 'blocks.3.' in n
        for n in unused
    )


def test_a_single_safetensors_file_loads_too(folder):
    parts = [folder / f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    save_file({**load_file(parts[0]), **load_file(parts[1])}, folder / 'model.safetensors')
    want = load(folder).projector.fc1.weight
    for file in (*parts, folder / 'model.safetensors.index.json'):
        file.unlink()
    torch.testing.assert_close(load(folder).projector.fc1.weight, want, rtol=0, atol=0)


def _truncate(folder):
    shard = folder / 'model-00002-of-00002.safetensors'
    shard.write_bytes(shard.read_bytes()[:1000])


def _lacks_a_tensor(folder):
    shard = folder / 'model-00001-of-00002.safetensors'
    state = load_file(shard)
    del state['projector.fc1.bias']
    save_file(state, shard)


def _pickle_of_code(folder):
    (folder / HEAD).write_bytes(b'cos\nsystem\n(S"true"\ntR.')


def _wrong_shape(folder):
    state = torch.load(folder / HEAD, weights_only=True)
    state['module.model.fc2.weight'] = state['module.model.fc2.weight'][:3]
    torch.save(state, folder / HEAD)


@pytest.mark.parametrize(
    ('harm', 'says'),
    [
        (lambda f: (f / 'config.json').unlink(), 'config.json is missing'),
        (lambda f: (f / 'config.json').write_text('{'), 'config.json'),
        (
            lambda f: edit_json(f / 'config.json', lambda c: c.update(model_type='llava')),
            'OpenVLA',
        ),
        (lambda f: (f / 'model-00002-of-00002.safetensors').unlink(), 'model-00002-of-00002'),
        (_lacks_a_tensor, 'projector.fc1.bias'),
        (_truncate, 'model-00002-of-00002.safetensors is broken'),
        (lambda f: (f / HEAD).unlink(), 'exactly one action_head--N_checkpoint.pt, found none'),
        (
            lambda f: shutil.copy(f / HEAD, f / 'action_head--5_checkpoint.pt'),
            'exactly one action_head',
        ),
        (_pickle_of_code, 'not a plain state dict'),
        (_wrong_shape, r'module|action_head.model.fc2.weight is \(3, 64\), expected \(7, 64\)'),
    ],
)
def test_a_broken_folder_is_named_in_one_line(folder, harm, says):
    harm(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(folder)
    assert '\n' not in str(caught.value)


def test_a_checkpoint_of_another_profile_is_refused(folder):
    with pytest.raises(CheckpointError, match='choose the profile'):
        load(folder, ALOHA)


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
        (lambda e: e['action']['q99'].__setitem__(2, -5.0), 'not q01 < q99'),
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
