"""``vla-prune check`` on good folders, and on folders with one thing wrong.

Counts are those of the micro checkpoint: 151 entries in its main state dict, and 2 430 998 weights
in the modules that run. The fixed ids of the prompt are Llama-2's.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_prune_ros.cli import main
from vla_prune_ros.evaluate.check import CheckOptions, check_checkpoint
from vla_prune_ros.model.synthetic import make_checkpoint, standin_tokenizer

LLAMA2 = {
    **{'▁In': 512, ':': 29901, '▁What': 1724, '▁action': 3158, '▁should': 881, '▁the': 278},
    **{'▁robot': 19964, '▁take': 2125, '▁to': 304, '?': 29973, '\n': 13, 'Out': 3744},
}


@pytest.fixture
def folder(data_dir, tmp_path):
    copy = shutil.copytree(data_dir / 'micro' / 'checkpoint', tmp_path / 'checkpoint')
    standin_tokenizer(LLAMA2).save(str(copy / 'tokenizer.json'))
    return copy


@pytest.fixture
def check(capsys, tmp_path):
    """Runs the command: exit code, last line that it prints, stderr, and its JSON."""

    def run(folder, *options):
        file = tmp_path / 'out.json'
        code = main(['check', str(folder), *options, '--json', str(file)])
        out, err = capsys.readouterr()
        last = out.strip().rpartition('\n')[2].strip()
        return code, last, err, json.loads(file.read_text())

    return run


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def values(result):
    return {check['name']: check['value'] for check in result['checks']}


class TestGood:
    def test_what_is_there_and_every_check(self, check, folder):
        code, last, err, result = check(folder)
        assert (code, last, err) == (0, 'OK', '')
        found = result['found']
        assert found['parameters'] == '2,430,998 in use, bfloat16 on cpu'
        assert found['tensors'] == '151 of 151 published ones'
        assert (found['head'], found['proprio'], found['FiLM']) == ('l1', '8 values', 'no')
        assert found['cameras'].startswith('primary, wrist (')
        assert found['chunk'] == '8 steps x 7 (delta_pose)'
        assert values(result)['statistics'].startswith("'libero_spatial_no_noops'")
        assert values(result)['tokenizer'] == 'Llama-2 by its ids'
        sizes = result['weights_gb']  # of 4 and 2 bytes
        assert sizes['float32'] == 2 * sizes['bfloat16'] == pytest.approx(4 * 2430998e-9)
        assert (result['ok'], result['failed'], len(result['checks'])) == (True, 0, 10)

    def test_untrained_weights_and_their_tokenizer_are_named(self, check, tmp_path):
        code, *_, result = check(make_checkpoint(tmp_path / 'untrained', 'micro'))
        assert code == 0 and result['found']['training'] == 'UNTRAINED random weights'
        assert values(result)['tokenizer'] == 'stand-in, not Llama-2'
        tensors = '107 of 151 published ones; the other 44 are not needed'
        assert result['found']['tensors'] == tensors

    def test_another_head_and_a_tokenizer_elsewhere(self, check, folder, tmp_path):
        (tmp_path / 'elsewhere').mkdir()
        (folder / 'tokenizer.json').rename(tmp_path / 'elsewhere' / 'tokenizer.json')
        options = ('--head', 'discrete', '--tokenizer', str(tmp_path / 'elsewhere'))
        code, *_, result = check(folder, *options)
        assert code == 0 and result['found']['head'] == 'discrete'
        assert check(folder, '--head', 'discrete')[0] == 1

    def test_several_keys_and_one_that_is_chosen(self, check, folder):
        def two(data):
            data['other'] = data['libero_spatial_no_noops']

        edit(folder / 'dataset_statistics.json', two)
        assert check(folder)[0] == 1
        code, *_, result = check(folder, '--unnorm-key', 'libero_spatial')
        keys = 'libero_spatial_no_noops of libero_spatial_no_noops, other'
        assert (code, result['found']['statistics']) == (0, keys)

    @pytest.mark.parametrize('dtype', ['int8', 'int4'])
    def test_quantised_weights(self, folder, dtype):
        pytest.importorskip('torchao')
        result = check_checkpoint(CheckOptions(str(folder), dtype=dtype))
        assert result.ok and result.weights_gb[dtype] < result.weights_gb['bfloat16']
        assert result.found['parameters'] == f'2,430,998 in use, {dtype} on cpu'


def config(**changes):
    def spoil(folder):
        edit(folder / 'config.json', lambda c: c['text_config'].update(changes))

    return spoil


def one_nan(folder):
    file = folder / 'model-00001-of-00002.safetensors'
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float('nan')
    save_file(tensors, file)


def unrounded_constants(folder):
    path = folder / 'preprocessor_config.json'
    edit(path, lambda c: c.update(means=[[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]]))


def other_tokenizer(folder):
    standin_tokenizer({**LLAMA2, '▁robot': 300}).save(str(folder / 'tokenizer.json'))


def other_tokenizer_model(folder):
    (folder / 'tokenizer.model').write_bytes(b'abc')


def head_of_another_scale(folder):
    file = next(folder.glob('action_head--*'))
    state = torch.load(file, weights_only=True)
    state['module.model.fc2.weight'] *= 1000
    torch.save(state, file)


@pytest.mark.parametrize(
    ('spoil', 'name', 'reason'),
    [
        (config(rms_norm_eps=1e-5), 'norm eps', '1e-05, expected 1e-06'),
        (config(rope_theta=500000.0), 'rotary angles', 'theta 500000'),
        (one_nan, 'weights', 'holds values that are not finite'),
        (unrounded_constants, 'pixel constants', 'means is [[0.485, 0.456, 0.406]'),
        (other_tokenizer, 'tokenizer', 'fixed ids of the prompt are'),
        (other_tokenizer_model, 'tokenizer', "is not Llama-2's"),
        (head_of_another_scale, 'dry run', 'beyond 10'),
    ],
)
def test_a_failed_check_is_named_and_gives_1(check, folder, spoil, name, reason):
    spoil(folder)
    code, last, _, result = check(folder)
    failed = {c['name']: c['reason'] for c in result['checks'] if not c['ok']}
    assert code == 1 and reason in failed[name]
    assert last == f'{len(failed)} of 10 checks failed'


def shard_cut_short(folder):
    path = folder / 'model-00001-of-00002.safetensors'
    path.write_bytes(path.read_bytes()[:1000])


def swapped_limits(folder):
    def swap(data):
        action = data['libero_spatial_no_noops']['action']
        action['q01'], action['q99'] = action['q99'], action['q01']

    edit(folder / 'dataset_statistics.json', swap)


def without(pattern):
    return lambda folder: next(folder.glob(pattern)).unlink()


@pytest.mark.parametrize(
    ('spoil', 'options', 'message'),
    [
        (None, ('--profile', 'aloha'), "profile 'aloha' has 14"),
        (None, ('--unnorm-key', 'nope'), "unnorm_key 'nope' is not in"),
        (None, ('--device', 'tpu'), "device 'tpu'"),
        (None, ('--tokenizer', '/nowhere'), 'no tokenizer.json or tokenizer.model in /nowhere'),
        (without('model-00002-*'), (), 'shard model-00002-of-00002.safetensors is missing'),
        (shard_cut_short, (), 'is broken'),
        (swapped_limits, (), 'not q01 < q99'),
        (without('config.json'), (), 'config.json is missing'),
        (without('action_head--*'), (), 'needs exactly one action_head'),
    ],
)
def test_what_cannot_be_loaded_gives_one_line_and_1(check, folder, spoil, options, message):
    if spoil:
        spoil(folder)
    code, _, err, result = check(folder, *options)
    assert code == 1 and err.startswith('error: ') and err.count('\n') == 1 and message in err
    assert result == {'ok': False, 'error': err.removeprefix('error: ').strip()}
