"""LIBERO's suites: the protocol's numbers, task lists, instructions and initial states.

Where expected values come from: OpenVLA-OFT's ``run_libero_eval.py`` (steps, settling, seed,
trials), the names of LIBERO's own task files, and the states as the files hold them.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim import panda
from vla_prune_ros.sim.libero import suites as libero_suites

pytestmark = pytest.mark.libero
if not (find_spec('libero') and find_spec('bddl')):
    pytest.skip('hf-libero or bddl is not installed', allow_module_level=True)

SIZES = {
    'libero_spatial': 10,
    'libero_object': 10,
    'libero_goal': 10,
    'libero_10': 10,
    'libero_90': 90,
}


@pytest.fixture(scope='module', autouse=True)
def configured():
    from vla_prune_ros.sim.libero.assets import configure

    configure()


def test_protocol_is_the_published_one():
    assert dict(libero_suites.MAX_STEPS) == {
        'libero_spatial': 220,
        'libero_object': 280,
        'libero_goal': 300,
        'libero_10': 520,
        'libero_90': 400,
    }
    assert libero_suites.ENV_SEED == 0 and libero_suites.TRIALS_PER_TASK == 50
    assert panda.SETTLING_STEPS == 10 and panda.CONTROL_HZ == 20.0
    assert panda.OPEN_AND_STILL.tolist() == [0, 0, 0, 0, 0, 0, -1]


@pytest.mark.parametrize('suite', SIZES)
def test_task_list_and_instructions(suite):
    tasks = libero_suites.suite_tasks(suite)
    assert [task.index for task in tasks] == list(range(SIZES[suite]))
    on_disk = {path.stem for path in tasks[0].bddl_file.parent.glob('*.bddl')}
    assert {task.name for task in tasks} == on_disk
    for task in tasks:
        assert task.suite == suite
        words = re.sub(r'^[A-Z_]+SCENE\d+_', '', task.name).replace('_', ' ')
        assert task.instruction == words and words == words.lower()


def test_the_first_tasks_are_those_of_the_benchmark():
    first = {suite: libero_suites.suite_tasks(suite)[0].instruction for suite in SIZES}
    assert first['libero_spatial'] == (
        'pick up the black bowl between the plate and the ramekin and place it on the plate'
    )
    assert first['libero_object'] == 'pick up the alphabet soup and place it in the basket'
    assert first['libero_goal'] == 'open the middle drawer of the cabinet'
    assert first['libero_10'] == 'put both the alphabet soup and the tomato sauce in the basket'
    assert first['libero_90'] == 'close the top drawer of the cabinet'


def test_tasks_by_name_and_by_number():
    everything = libero_suites.suite_tasks('libero_goal')
    some = libero_suites.suite_tasks('libero_goal', [everything[7].name, '3'])
    assert some == (everything[7], everything[3])


@pytest.mark.parametrize('name', ['10', '-1', 'pick_up_the_red_cube', ''])
def test_an_unknown_task_is_refused_by_name(name):
    with pytest.raises(VlaPruneError, match=re.escape(repr(name)) + '.*from 0 to 9'):
        libero_suites.suite_tasks('libero_goal', [name])


def numbers_in_a_state(problem: str) -> int:
    """Time, positions and velocities by what a BDDL file names: arm 9, object 7 + 6, joint 2."""
    sections = dict(re.findall(r'\(:(objects|fixtures)(.*?)\n  \)', problem, re.DOTALL))
    joints = {'wooden_cabinet': 3, 'white_cabinet': 3, 'flat_stove': 1, 'microwave': 1}
    movable = articulated = 0
    for line in sections['objects'].strip().splitlines():
        movable += len(line.split(' - ')[0].split())
    for line in sections['fixtures'].strip().splitlines():
        names, category = line.strip().split(' - ')
        articulated += len(names.split()) * joints.get(category, 0)
    return 1 + 18 + 13 * movable + 2 * articulated


@pytest.mark.parametrize('suite', SIZES)
def test_fifty_initial_states_for_every_task(suite):
    for task in libero_suites.suite_tasks(suite)[:10]:
        states = task.initial_states()
        width = numbers_in_a_state(task.bddl_file.read_text(encoding='utf-8'))
        assert states.shape == (50, width) and states.dtype == np.float64
        assert np.isfinite(states).all()
        assert len(np.unique(states, axis=0)) == 50


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_of_states_cannot_run_anything(tmp_path):
    import torch

    torch.save(Planted(tmp_path / 'ran'), tmp_path / 'states.pruned_init')
    with pytest.raises(VlaPruneError, match='cannot be read.*hf-libero'):
        libero_suites._load_states(tmp_path / 'states.pruned_init')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content', [None, b'', b'no archive'])
def test_unreadable_states_name_the_file(tmp_path, content):
    path = tmp_path / 'states.pruned_init'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VlaPruneError, match='states.pruned_init cannot be read'):
        libero_suites._load_states(path)
