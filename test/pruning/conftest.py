"""What tests of pruners share: one thread, recorded models, a tiny decoder."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from pruning_pass import TinyLlama
from safetensors.torch import load_file

from vla_prune_ros.model.checkpoint import Variant, load_model
from vla_prune_ros.model.images import pixel_values
from vla_prune_ros.profiles import LIBERO

SPACE = 29871  # the token of a lone space
TASKS = {
    'long': 'pick up the black bowl between the plate and the ramekin and place it on the plate',
    'short': 'turn on the stove',
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other on products this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _with_deep_layers(data_dir: Path, folder: Path) -> Path:
    """The checkpoint of 32 layers: micro's, with the layers that it lacks as one more shard."""
    shutil.copytree(data_dir / 'micro' / 'checkpoint', folder, dirs_exist_ok=True)
    shard = data_dir / 'specprune' / 'deep_layers.safetensors'
    shutil.copy(shard, folder)
    index_file, config_file = folder / 'model.safetensors.index.json', folder / 'config.json'
    index = json.loads(index_file.read_text(encoding='utf-8'))
    index['weight_map'].update(dict.fromkeys(load_file(shard), shard.name))
    config = json.loads(config_file.read_text(encoding='utf-8'))
    config['text_config']['num_hidden_layers'] = 32
    for file, data in ((index_file, index), (config_file, config)):
        file.chmod(0o644)
        file.write_text(json.dumps(data), encoding='utf-8')
    return folder


@pytest.fixture(scope='session')
def recorded_model(data_dir, tmp_path_factory) -> Callable:
    """Name of a recorded model (``micro``, ``deep``, ...) -> it, and its folder; skips an absent
    one. Models are loaded once and never changed."""
    deep = _with_deep_layers(data_dir, tmp_path_factory.mktemp('deep'))
    golden = Path(os.environ.get('VLA_PRUNE_GOLDEN_DIR', ''))

    @cache
    def load(name: str):
        places = [golden / name / 'checkpoint', data_dir / name / 'checkpoint']
        for folder in [deep] if name == 'deep' else places:
            if folder.is_dir():
                variant = Variant('l1', proprio=True, film=False)
                with torch.inference_mode(False):  # one test passes gradients through it
                    return load_model(folder, LIBERO, variant, 'cpu', torch.float32), folder
        pytest.skip(f'no checkpoint of the model {name!r}')

    return load


def _prompt_ids(data_dir: Path, task: str) -> torch.Tensor:
    suites = json.loads((data_dir / 'tokens.json').read_text(encoding='utf-8'))['suites']
    for entry in (e for entries in suites.values() for e in entries):
        if entry['task'] == TASKS[task]:
            return torch.tensor([[*entry['input_ids'], SPACE]])  # as predict_action appends it
    raise LookupError(task)


@pytest.fixture(scope='session')
def embed(data_dir) -> Callable:
    """(model, inputs, query, ``'long'`` or ``'short'``) -> embeddings (1, S, D) and layout.

    From the recorded images and state, by our own towers.
    """

    def run(model, inputs, q, task):
        images = [inputs[f'q{q}.current.{c}'].numpy() for c in LIBERO.cameras]
        ids = _prompt_ids(data_dir, task)
        layout = model.layout(LIBERO.cameras, ids.shape[1], LIBERO.chunk)
        visual = model.visual_tokens(pixel_values(images), ids)
        state = inputs[f'q{q}.proprio_normalized'][None].float()
        return model.embed(visual, ids, state, layout), layout

    return run


@pytest.fixture(scope='session')
def tiny_llama():
    """The decoder of most tests here; it is never changed."""
    return TinyLlama()
