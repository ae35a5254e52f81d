"""Generated assets: complete, and what LIBERO's task files ask for.

Expected values are read from the BDDL files with expressions of this file.
"""

import re
import xml.etree.ElementTree as xml
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from vla_prune_ros.sim.libero.assets import STANDIN

pytestmark = pytest.mark.libero
if not (find_spec('libero') and find_spec('bddl')):
    pytest.skip('hf-libero or bddl is not installed', allow_module_level=True)

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


def categories(problem):
    """Instance -> category of all objects and fixtures."""
    found = {}
    for section in re.findall(r'\(:(?:objects|fixtures)(.*?)\n  \)', problem, re.DOTALL):
        for line in section.strip().splitlines():
            names, category = line.strip().split(' - ')
            found |= dict.fromkeys(names.split(), category)
    return found


def names(document, tag):
    return {element.get('name') for element in document.iter(tag)}


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
        assert regions <= names(documents[category], 'site'), category


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
