"""Fingerprints change with every file of a checkpoint and with nothing else."""

import hashlib

import pytest

from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.evaluate import machine as module
from vla_prune_ros.evaluate.machine import checkpoint_card, checkpoint_fingerprint
from vla_prune_ros.model.hub import reference_folder


@pytest.fixture
def folder(tmp_path):
    for name, content in (
        ('config.json', b'{}'),
        ('model.safetensors', bytes(range(250)) * 100),
        ('action_head--0_checkpoint.pt', b'head'),
        ('README.md', b'no part of a checkpoint'),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_it_is_the_hash_of_names_sizes_and_contents_of_its_files(folder):
    digest = hashlib.sha256()
    for name in ('action_head--0_checkpoint.pt', 'config.json', 'model.safetensors'):
        content = (folder / name).read_bytes()
        digest.update(f'{name} {len(content)}\n'.encode() + content)
    assert checkpoint_fingerprint(folder) == digest.hexdigest()[:16]


@pytest.mark.parametrize('at', [0, 12_000, -1])
def test_large_files_are_sampled_to_their_ends(folder, monkeypatch, at):
    monkeypatch.setattr(module, '_WHOLE', 1000)
    monkeypatch.setattr(module, '_PIECE', 1600)
    before = checkpoint_fingerprint(folder)
    path = folder / 'model.safetensors'
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert checkpoint_fingerprint(folder) != before


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match='holds no checkpoint'):
        checkpoint_fingerprint(tmp_path)


def test_the_card_says_untrained_only_where_the_note_does(folder):
    assert checkpoint_card(folder)['untrained'] is False
    (folder / 'vla_prune.json').write_text('{"trained": false, "preset": "micro"}')
    card = checkpoint_card(folder)
    assert card['untrained'] is True and card['note']['preset'] == 'micro'
    assert card['weights_mib'] == pytest.approx((25_000 + 4) / 2**20, abs=0.005)
    (folder / 'vla_prune.json').write_text('{"trained": true}')
    assert checkpoint_card(folder)['untrained'] is False


def test_the_packages_own_policy_is_named_without_its_place(folder):
    for name in ('reference', 'reference-lightvla'):
        card = checkpoint_card(reference_folder(name))
        assert card['folder'] == name and card['untrained'] is False
    assert checkpoint_card(folder)['folder'] == str(folder)
