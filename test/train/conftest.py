"""A network of a few thousand numbers, drawn episodes, and a rendered scene with all tasks."""

import numpy as np
import pytest
import torch

from vla_prune_ros.model.prompt import PromptTokenizer
from vla_prune_ros.model.synthetic import Preset
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train.dataset import Episode, compress, describe_numbers, save
from vla_prune_ros.train.publish import export
from vla_prune_ros.train.tasks.policy import ReferenceNet, Words, make_tokenizer

TINY = Preset((32, 3, 2), (16, 2, 2), 32, 64, 3, 2)
SWAPPED = {'red': 'green', 'green': 'red'}


def draw_episode(task='pick_red', frames=3, seed=0):
    """Random labels within plausible ranges; each image has one colour of its own."""
    rng = np.random.default_rng(seed)
    shades = rng.integers(20, 236, (frames * 2, 3))
    views = [compress(np.full((224, 224, 3), shade, np.uint8)) for shade in shades]
    chunk = rng.uniform(-1, 1, (frames, 8, 7))
    chunk[..., 6] = rng.integers(0, 2, (frames, 8))
    seen = rng.random((frames, 2, 2, 2))
    seen[rng.random((frames, 2, 2)) < 0.2] = np.nan
    return Episode(
        views=views,
        state=rng.normal(size=(frames, 8)),
        chunk=chunk,
        valid=rng.random((frames, 8)) < 0.8,
        seen=seen,
        offset=rng.normal(scale=0.1, size=(frames, 2, 3)),
        task=task,
        sister='_'.join(SWAPPED.get(word, word) for word in task.split('_')),
    )


@pytest.fixture(scope='package', autouse=True)
def _one_thread():
    """Threads that wait for each other cost more than such a network."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def episode():
    return draw_episode


@pytest.fixture(scope='session')
def six_episodes():
    """One of each task, in the order of the seeds."""
    return [draw_episode(task, seed=number) for number, task in enumerate(TASKS)]


@pytest.fixture(scope='session')
def recorded(six_episodes, tmp_path_factory):
    """A folder with all six to train on (seeds 6 to 11), and the second one held out (seed 1)."""
    folder = tmp_path_factory.mktemp('recorded')
    for seed, episode in enumerate([*six_episodes, six_episodes[1]], start=6):
        save(episode, folder / f'{seed if seed < 12 else 1}.npz')
    return folder


@pytest.fixture(scope='session')
def statistics(six_episodes):
    return describe_numbers(six_episodes)


@pytest.fixture(scope='session')
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
    make_tokenizer().save(str(path))
    return PromptTokenizer(path)


@pytest.fixture(scope='session')
def words(tokenizer):
    return Words([task.instruction for task in TASKS.values()], tokenizer)


@pytest.fixture(scope='session')
def tiny_net(words):
    return lambda seed=0: ReferenceNet(words.rows, seed, TINY)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory, tiny_net, words, statistics):
    folder = tmp_path_factory.mktemp('checkpoint')
    export(tiny_net(3), words, folder=folder, statistics=statistics, step=1, about={})
    return folder


@pytest.fixture(scope='package')
def scene(renderer):
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(tasks=tuple(TASKS))
    yield scene
    scene.close()
