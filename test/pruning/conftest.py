"""What tests of pruners share: one thread, recorded models, a tiny decoder and its brute force."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel

from vla_prune_ros.model.images import pixel_values
from vla_prune_ros.model.language import LanguageModel
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.base import PruningContext, Selection
from vla_prune_ros.pruning.forward_state import PruningState

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
def checkpoint_of(data_dir, tmp_path_factory) -> Callable[[str], Path]:
    """Name of a recorded model (``micro``, ``deep``, ...) -> its folder; skips an absent one."""
    deep = _with_deep_layers(data_dir, tmp_path_factory.mktemp('deep'))
    golden = Path(os.environ.get('VLA_PRUNE_GOLDEN_DIR', ''))

    def find(model: str) -> Path:
        if model == 'deep':
            return deep
        for place in (golden / model / 'checkpoint', data_dir / model / 'checkpoint'):
            if place.is_dir():
                return place
        pytest.skip(f'no checkpoint of the model {model!r}')

    return find


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


class TinyLlama:
    """Three layers of random weights, ours and ``transformers``' own eager ones."""

    layers = 3
    width = 16

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=self.width,
            intermediate_size=24,
            num_hidden_layers=self.layers,
            num_attention_heads=2,
            attn_implementation='eager',
        )
        self.reference = LlamaModel(config).eval()
        self.ours = LanguageModel(config).eval()
        self.ours.model.load_state_dict(self.reference.state_dict())

    def embeddings(self, layout, seed):
        """A random sequence (1, S, D)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, layout.length, self.width, generator=generator)

    def run(self, layout, x, pruner):
        """Read-out rows, the state, and the residual stream behind every layer."""
        positions, trace = torch.arange(layout.length), []
        state = PruningState(layout=layout, pruner=pruner, positions=positions, trace=trace)
        with torch.inference_mode():
            out = self.ours(x, state)
        return out, state, trace

    def masked_dense(self, layout, x, script):
        """All rows stay; removed tokens are masked as keys from the next layer on.

        :param script: layer -> ids that are left behind it.
        """
        model = self.reference
        cos, sin = model.rotary_emb(x, torch.arange(layout.length)[None])
        mask = torch.zeros(1, 1, layout.length, layout.length)

        def remove(layer):
            kept = script.get(layer)
            if kept is not None:
                gone = sorted(set(range(layout.visual)) - set(kept))
                mask[..., [1 + i for i in gone]] = float('-inf')

        remove(-1)
        with torch.inference_mode():
            for index, layer in enumerate(model.layers):
                x = layer(x, attention_mask=mask, position_embeddings=(cos, sin))
                remove(index)
            return model.norm(x)[:, list(layout.readout_positions)]


@pytest.fixture(scope='session')
def tiny_llama():
    """The decoder of every test here; it is never changed."""
    return TinyLlama()


def _run_sites(pruner, layout, maps, hidden=None):
    """One pass of ``pruner`` without a model; returns the ids that are left, ascending.

    :param maps: layer -> (S, V) scores of every row of the un-pruned sequence.
    :param hidden: (S, D), the same at every site.
    """
    device = 'cpu' if hidden is None else hidden.device
    ids, memory = torch.arange(layout.visual, device=device), {}
    rest = torch.arange(1 + layout.visual, layout.length, device=device)
    for site in pruner.sites:
        positions = torch.cat([rest.new_zeros(1), 1 + ids, rest])
        seen = None
        if site.rows is not None:
            seen = maps[site.layer][list(site.rows(layout))][:, ids]
        x = torch.zeros(layout.length, 1) if hidden is None else hidden
        left = torch.bincount(ids // layout.patches, minlength=len(layout.cameras)).tolist()
        view = PruningContext(
            site=site,
            layout=layout,
            ids=ids,
            hidden=x[positions],
            positions=positions,
            kept_per_camera=tuple(left),
            attention=seen,
            memory=memory,
        )
        answer = pruner.keep(view)
        if isinstance(answer, Selection):
            counts = torch.bincount(answer.ids // layout.patches).tolist()
            assert list(answer.kept_per_camera) == counts
            answer = answer.ids
        ids = ids if answer is None else answer.sort().values
    pruner.after_pass(memory)
    return ids


@pytest.fixture(scope='session')
def run_sites():
    """:func:`_run_sites`."""
    return _run_sites
