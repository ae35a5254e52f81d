"""The observations of the goldens, and a tokenizer that gives their prompts the golden's ids."""

import shutil
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_prune_ros import Observation, load_policy
from vla_prune_ros.model.synthetic import standin_tokenizer

FRAME = ['▁In', ':', '▁What', '▁action', '▁should', '▁the', '▁robot', '▁take', '▁to']
END = ['?', '\n', 'Out', ':']
BOWL = (
    '▁pick ▁up ▁the ▁black ▁bow l ▁between ▁the ▁plate ▁and ▁the ▁r am ekin ▁and ▁place ▁it '
    '▁on ▁the ▁plate'
)
PEPPER = '▁put ▁the ▁green ▁pe pper ▁into ▁the ▁pot'


@pytest.fixture(scope='session')
def tokenizer(data_dir, tmp_path_factory):
    pieces = {}
    for words, name in ((BOWL, 'micro/film_fp32'), (PEPPER, 'micro_aloha/aloha_film_fp32')):
        ids = load_file(data_dir / f'{name}.safetensors')['input_ids_prompt'][0].tolist()
        parts = [*FRAME, *words.split(), *END]
        assert len(parts) == len(ids) - 1
        pieces.update(zip(parts, ids[1:], strict=True))
    folder = tmp_path_factory.mktemp('tokenizer')
    standin_tokenizer(pieces).save(str(folder / 'tokenizer.json'))
    return folder


@pytest.fixture(scope='session')
def load(data_dir, tokenizer):
    """Loads the micro checkpoint."""
    return partial(load_policy, data_dir / 'micro' / 'checkpoint', tokenizer=tokenizer)


@pytest.fixture(scope='session')
def observation(data_dir):
    golden = load_file(data_dir / 'micro' / 'observation.safetensors')
    frames = {
        'primary': golden['raw.agentview_image'],
        'wrist': golden['raw.robot0_eye_in_hand_image'],
    }
    images = {c: np.ascontiguousarray(f[::-1, ::-1]) for c, f in frames.items()}
    task = 'pick up the black bowl between the plate and the ramekin and place it on the plate'
    return Observation(images, golden['state'], task, stamp_ns=17)


@pytest.fixture
def folder(data_dir, tmp_path):
    return shutil.copytree(data_dir / 'micro' / 'checkpoint', tmp_path / 'checkpoint')


@pytest.fixture
def load_variant(folder, data_dir, tokenizer):
    """Loads ``folder`` after files of other variants replaced its own of the same component."""

    def load(*sources, **options):
        for file in (file for source in sources for file in (data_dir / source).iterdir()):
            for old in folder.glob(f'{file.name.split("--")[0]}--*'):
                old.unlink()
            shutil.copy(file, folder / file.name)
        return load_policy(folder, tokenizer=tokenizer, **options)

    return load
