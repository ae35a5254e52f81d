"""LIBERO's suites, against OpenVLA-OFT's ``run_libero_eval.py`` (steps, settling, seed, trials),
the names of LIBERO's own task files, and the states as the files hold them; and generated assets:
complete, and what the BDDL files ask for."""

import re
import xml.etree.ElementTree as xml
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim import panda
from vla_prune_ros.sim.libero import suites as libero_suites
from vla_prune_ros.sim.libero.assets import STANDIN

pytestmark = pytest.mark.libero
if not (find_spec('libero') and find_spec('bddl')):
    pytest.skip('hf-libero or bddl is not installed', allow_module_level=True)

# Suite -> number of tasks, step limit, instruction of the first task.
SUITES = {
    'libero_spatial': (
        10,
        220,
        'pick up the black bowl between the plate and the ramekin and place it on the plate',
    ),
    'libero_object': (10, 280, 'pick up the alphabet soup and place it in the basket'),
    'libero_goal': (10, 300, 'open the middle drawer of the cabinet'),
    'libero_10': (10, 520, 'put both the alphabet soup and the tomato sauce in the basket'),
    'libero_90': (90, 400, 'close the top drawer of the cabinet'),
}


@pytest.fixture(scope='module', autouse=True)
def configured():
    from vla_prune_ros.sim.libero.assets import configure

    configure()


def test_protocol_is_the_published_one():
    steps = {suite: limit for suite, (_, limit, _) in SUITES.items()}
    assert steps == libero_suites.MAX_STEPS
    assert libero_suites.ENV_SEED == 0 and libero_suites.TRIALS_PER_TASK == 50
    assert panda.SETTLING_STEPS == 10 and panda.CONTROL_HZ == 20.0
    assert panda.OPEN_AND_STILL.tolist() == [0, 0, 0, 0, 0, 0, -1]


@pytest.mark.parametrize('suite', SUITES)
def test_task_list_and_instructions(suite):
    tasks, (count, _, first) = libero_suites.suite_tasks(suite), SUITES[suite]
    assert [task.index for task in tasks] == list(range(count))
    assert tasks[0].instruction == first
    on_disk = {path.stem for path in tasks[0].bddl_file.parent.glob('*.bddl')}
    assert {task.name for task in tasks} == on_disk
    for task in tasks:
        assert task.suite == suite
        instruction = re.sub(r'^[A-Z_]+SCENE\d+_', '', task.name).replace('_', ' ')
        assert task.instruction == instruction == instruction.lower()


def test_tasks_by_name_and_by_number():
    everything = libero_suites.suite_tasks('libero_goal')
    some = libero_suites.suite_tasks('libero_goal', [everything[7].name, '3'])
    assert some == (everything[7], everything[3])


@pytest.mark.parametrize('name', ['10', '-1', 'pick_up_the_red_cube', ''])
def test_an_unknown_task_is_refused_by_name(name):
    with pytest.raises(VlaPruneError, match=re.escape(repr(name)) + '.*from 0 to 9'):
        libero_suites.suite_tasks('libero_goal', [name])


def categories(problem, sections='objects|fixtures'):
    """Instance -> category of what a BDDL file names there."""
    found = {}
    for section in re.findall(rf'\(:(?:{sections})(.*?)\n  \)', problem, re.DOTALL):
        for line in section.strip().splitlines():
            names, category = line.strip().split(' - ')
            found |= dict.fromkeys(names.split(), category)
    return found


def numbers_in_a_state(problem):
    """Time, positions and velocities by what a BDDL file names: arm 9, object 7 + 6, joint 2."""
    joints = {'wooden_cabinet': 3, 'white_cabinet': 3, 'flat_stove': 1, 'microwave': 1}
    articulated = sum(joints.get(c, 0) for c in categories(problem, 'fixtures').values())
    return 1 + 18 + 13 * len(categories(problem, 'objects')) + 2 * articulated


@pytest.mark.parametrize('suite', SUITES)
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


def test_unreadable_states_name_the_file_and_run_nothing(tmp_path):
    import torch

    path = tmp_path / 'states.pruned_init'
    for write in (
        lambda: None,
        lambda: path.write_bytes(b''),
        lambda: path.write_bytes(b'no archive'),
        lambda: torch.save(Planted(tmp_path / 'ran'), path),
    ):
        write()
        with pytest.raises(VlaPruneError, match='states.pruned_init cannot be read'):
            libero_suites._load_states(path)
    assert not (tmp_path / 'ran').exists()


ROOMS = {'table', 'kitchen_table', 'living_room_table', 'study_table', 'floor'}


@pytest.fixture(scope='module')
def problems():
    """Text of every task file."""
    package = Path(find_spec('libero').submodule_search_locations[0]) / 'libero'
    paths = sorted((package / 'bddl_files').glob('*/*.bddl'))
    assert len(paths) == 130
    return [path.read_text(encoding='utf-8') for path in paths]


@pytest.fixture(scope='module')
def documents():
    """File name without its ending -> parsed XML."""
    return {path.stem: xml.parse(path).getroot() for path in STANDIN.rglob('*.xml')}


def test_every_object_of_every_task_has_a_file(problems, documents):
    wanted = {c for problem in problems for c in categories(problem).values()} - ROOMS
    assert len(wanted) == 33
    assert wanted <= set(documents)


def test_every_region_of_every_task_has_a_site(problems, documents):
    wanted = defaultdict(set)
    for problem in problems:
        instances = categories(problem)
        for region, target in re.findall(r'\((\w+)\s+\(:target (\w+)\)', problem):
            if instances.get(target, 'floor') not in ROOMS:
                wanted[instances[target]].add(region)
    assert sum(len(regions) for regions in wanted.values()) > 15
    for category, regions in wanted.items():
        sites = {site.get('name') for site in documents[category].iter('site')}
        assert regions <= sites, category


def test_objects_can_be_placed_seen_and_touched(documents):
    for name, document in documents.items():
        if document.find("./worldbody/body/body[@name='object']") is None:
            continue  # a room
        outer = {site.get('name') for site in document.findall('./worldbody/body/site')}
        assert outer == {'bottom_site', 'top_site', 'horizontal_radius_site'}, name
        groups = [geom.get('group') for geom in document.iter('geom')]
        assert groups.count('0') == groups.count('1') > 0, name


def test_no_file_is_needed_that_is_not_there():
    for path in STANDIN.rglob('*.xml'):
        for element in xml.parse(path).iter():
            if element.get('file'):
                assert (path.parent / element.get('file')).is_file(), path
