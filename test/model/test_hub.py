"""Checkpoints by hub name, without a network: ``snapshot_download`` is replaced.

The listing is a published repository's, with files that others add; the filter is the client's.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.model import hub as module
from vla_prune_ros.model.hub import checkpoint_folder, is_hub_id

NAME = 'moojink/openvla-7b-oft-finetuned-libero-spatial'
# What our trainer adds for LightVLA comes last.
WANTED = """
    action_head--150000_checkpoint.pt added_tokens.json config.json dataset_statistics.json
    generation_config.json model-00001-of-00003.safetensors model-00002-of-00003.safetensors
    model-00003-of-00003.safetensors model.safetensors.index.json preprocessor_config.json
    proprio_projector--150000_checkpoint.pt special_tokens_map.json tokenizer.json
    tokenizer.model tokenizer_config.json pruning.json pruning.safetensors
"""
REFUSED = """
    .gitattributes README.md configuration_prismatic.py modeling_prismatic.py
    processing_prismatic.py action_head--evil_checkpoint.pt.py lora_adapter/adapter_config.json
    lora_adapter/adapter_model.safetensors model/tokenizer.model model_cache/model.safetensors
    optimizer.pt pytorch_model.bin
"""


@pytest.fixture
def hub(monkeypatch):
    return lambda download: monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)


def test_a_folder_wins_over_a_hub_name(tmp_path, hub, monkeypatch):
    hub(Mock(side_effect=AssertionError('asked the hub')))
    assert checkpoint_folder(tmp_path) == checkpoint_folder(str(tmp_path)) == tmp_path
    (tmp_path / 'org' / 'name').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder('org/name') == Path('org/name')
    with pytest.raises(CheckpointError, match='org/nmae'):
        checkpoint_folder('org/nmae')


def test_what_looks_like_a_hub_name():
    assert is_hub_id(NAME) and is_hub_id('Sylvest/a_b-c.d') and not is_hub_id('')
    paths = 'name /org/name ./org/name ../name ~/name org/name/more org/name/ https://hf.co/a/b'
    assert not any(map(is_hub_id, paths.split()))


def test_only_the_files_that_are_read_are_fetched(hub, tmp_path):
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    hub(download)
    assert checkpoint_folder(NAME) == tmp_path
    patterns = {k: v for k, v in asked.items() if k.endswith('_patterns')}
    files = [*WANTED.split(), *REFUSED.split()]
    assert list(filter_repo_objects(files, **patterns)) == WANTED.split()
    assert asked['name'] == NAME and not any('remote_code' in k for k in asked)


@pytest.mark.parametrize(
    'error',
    [
        errors.GatedRepoError.__new__(errors.GatedRepoError),
        errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError),
        errors.LocalEntryNotFoundError('a\nb'),
        OSError(28, 'No space left on device'),
        RuntimeError('first\nsecond'),
        RuntimeError(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_goes_wrong_is_said_in_one_line(hub, error):
    hub(Mock(side_effect=error))
    with pytest.raises(CheckpointError, match=NAME) as refused:
        checkpoint_folder(NAME)
    assert '\n' not in str(refused.value)


def test_progress_of_several_threads_grows_and_is_short(hub, tmp_path, capfd):
    """15.08 GB in 1000 parts, shown by two bars as the client does, and a bar of files."""
    said = []

    def download(name, tqdm_class, **options):
        bars = [tqdm_class(total=0, unit='B', unit_scale=True, desc='bytes') for _ in 'ab']
        files = tqdm_class(total=4, desc='files')
        for bar in bars:
            bar.total, bar.mininterval = 15_080_000_000, 0

        def load():
            for _ in range(250):
                for bar in bars:
                    bar.update(15_080_000)
            files.update(1)

        with ThreadPoolExecutor(4) as pool:
            for job in [pool.submit(load) for _ in range(4)]:
                job.result()
        for bar in bars:
            bar.refresh()
            bar.close()
        return str(tmp_path)

    hub(download)
    checkpoint_folder(NAME, said.append)
    _, *steps = said
    assert 1 <= len(steps) <= 101 and len(set(steps)) == len(steps)
    amounts = [float(s.split(': ')[1].split()[0]) for s in steps]
    assert amounts == sorted(amounts) and amounts[-1] == 15.08
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('package', 'models'),
    [
        ('', 'models/reference'),  # a checkout
        ('venv/lib/python3.11/site-packages', 'venv/share/vla_prune_ros/models/reference'),  # pip
        (
            'install/vla_prune_ros/lib/python3.12/site-packages',  # colcon
            'install/vla_prune_ros/share/vla_prune_ros/models/reference',
        ),
    ],
    ids=['checkout', 'pip', 'colcon'],
)
def test_the_reference_policy_is_found_where_it_was_installed(
    tmp_path, monkeypatch, package, models
):
    file = tmp_path / package / 'vla_prune_ros' / 'model' / 'hub.py'
    monkeypatch.setattr(module, '__file__', str(file))
    with pytest.raises(CheckpointError, match='vla-prune train reference'):
        checkpoint_folder('reference')
    (tmp_path / models).mkdir(parents=True)
    (tmp_path / models / 'config.json').write_text('{}')
    assert checkpoint_folder('reference') == tmp_path / models
