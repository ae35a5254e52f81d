"""The package installs with pip and with colcon; package.xml names everything the nodes import.

Expected values: REP-149 (package format 3), the rosdep keys of rosdistro, and ament's layout of an
installed Python package (``lib/<package>``, ``share/<package>`` and the resource index).
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

import vla_prune_ros

ROOT = Path(__file__).resolve().parents[1]
NAME = 'vla_prune_ros'
COLCON = ROOT / '.venv-colcon' / 'bin' / 'colcon'

# Import name -> rosdep key, where they differ. ROS packages have the name that is imported.
ROSDEP = {
    'cv2': 'python3-opencv',
    'numpy': 'python3-numpy',
    'yaml': 'python3-yaml',
    'PIL': 'python3-pil',
    'torch': 'python3-pytorch-pip',
    'transformers': 'python3-transformers-pip',
    'simplejpeg': 'python3-simplejpeg-pip',
}
# No key exists for these; docs/dependencies.md says how they come.
NO_KEY = {'rich', 'tokenizers', 'safetensors', 'sentencepiece', 'robosuite', 'mujoco'}
INSTALLED = (
    *('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'LICENSE'),
    *('resource', 'launch', 'config', 'gazebo', NAME),
)


def manifest() -> xml.Element:
    return xml.parse(ROOT / 'package.xml').getroot()


def exec_depends() -> set[str]:
    return {e.text for e in manifest().findall('exec_depend')}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names) - {NAME}


@pytest.fixture(scope='module')
def setup_arguments() -> dict:
    """Keyword arguments of ``setup()`` in setup.py, evaluated with setuptools' part recorded."""
    import setuptools

    recorded = {}
    source = (ROOT / 'setup.py').read_text(encoding='utf-8')
    original, here = setuptools.setup, os.getcwd()
    setuptools.setup = lambda **kwargs: recorded.update(kwargs)
    os.chdir(ROOT)
    try:
        exec(compile(source, 'setup.py', 'exec'), {'__name__': 'setup'})
    finally:
        setuptools.setup = original
        os.chdir(here)
    return recorded


@pytest.mark.parametrize('folder', [f'{NAME}/nodes', 'launch'])
def test_package_xml_names_what_nodes_and_launch_files_import(folder):
    for path in (ROOT / folder).rglob('*.py'):
        keys = {ROSDEP.get(name, name) for name in imported(path) - NO_KEY}
        assert keys <= exec_depends(), f'{path} imports what package.xml does not name'


def test_package_xml_is_one_that_colcon_takes_for_ament_python():
    root = manifest()
    assert root.get('format') == '3' and root.findtext('name') == NAME
    assert root.findtext('export/build_type') == 'ament_python'
    assert re.fullmatch(r'[\w.+-]+@[\w-]+(\.[\w-]+)+', root.find('maintainer').get('email'))
    assert (ROOT / root.find('license').get('file')).is_file()


def test_setup_and_manifest_agree(setup_arguments):
    maintainer = manifest().find('maintainer')
    assert setup_arguments['maintainer_email'] == maintainer.get('email')
    assert setup_arguments['maintainer'] == maintainer.text
    assert setup_arguments['license'] == manifest().findtext('license')
    version = setup_arguments['version']
    assert version == manifest().findtext('version') == vla_prune_ros.__version__


def test_no_file_states_a_python_range():
    # colcon evaluates the metadata literally and stops with "invalid syntax" where one is stated.
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml'):
        text = (ROOT / name).read_text(encoding='utf-8')
        assert not re.search(r'^\s*(requires-python|python_requires)\s*=', text, re.MULTILINE)


def test_all_launch_and_config_files_are_installed(setup_arguments):
    installed = {file for _, files in setup_arguments['data_files'] for file in files}
    folders = ('launch', 'config', 'config/training', 'gazebo')
    models = ('models/reference', 'models/reference-lightvla')
    files = (p for f in (*folders, *models) for p in (ROOT / f).iterdir() if p.is_file())
    present = {str(p.relative_to(ROOT)) for p in files}
    assert present | {'package.xml', f'resource/{NAME}'} == installed


def test_entry_points_exist(setup_arguments):
    for line in setup_arguments['entry_points']['console_scripts']:
        module, function = line.split('=')[1].strip().split(':')
        path = ROOT / module.replace('.', '/')
        path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
        tree = ast.parse(path.read_text(encoding='utf-8'))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, line


def test_tests_are_not_installed(setup_arguments):
    assert NAME in setup_arguments['packages'] and f'{NAME}.nodes' in setup_arguments['packages']
    assert all(p.split('.')[0] == NAME for p in setup_arguments['packages'])


def test_the_tried_set_satisfies_what_setup_py_asks_for(setup_arguments):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {}
    for line in (ROOT / 'requirements/lock.txt').read_text(encoding='utf-8').splitlines():
        if line and not line.startswith('#'):
            name, version = line.split('==')
            assert '+' not in version, f'{line}: only one index serves a local version'
            locked[canonicalize_name(name)] = version
    extras = sum(setup_arguments['extras_require'].values(), [])
    machine = {'sys_platform': 'linux', 'platform_machine': 'x86_64'}
    environment = {'python_version': '3.11', **machine}
    for requirement in map(Requirement, [*setup_arguments['install_requires'], *extras]):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version = locked.get(canonicalize_name(requirement.name))
            assert version and requirement.specifier.contains(version), requirement


def test_one_opencv_and_one_ros_distribution(setup_arguments):
    # Two OpenCV wheels write one folder; wheels of two ROS distributions do not load together.
    text = (ROOT / 'requirements/lock.txt').read_text(encoding='utf-8')
    assert 'opencv-python==' in text and 'opencv-python-headless' not in text
    wheels = ' '.join(setup_arguments['extras_require']['ros'])
    assert set(re.findall(r'==([\d.]+);', wheels)) <= {'7.1.6', '5.3.6', '2.0.3'}


@pytest.fixture(scope='module')
def workspace(tmp_path_factory) -> Path:
    """A colcon workspace with a copy of the sources."""
    if not COLCON.exists():
        pytest.skip('no .venv-colcon; make colcon-env makes it')
    folder = tmp_path_factory.mktemp('workspace')
    for item in INSTALLED:
        copy = shutil.copytree if (ROOT / item).is_dir() else shutil.copy
        target = folder / 'src' / NAME / item
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / item, target)
    return folder


def colcon(workspace: Path, *arguments: str) -> str:
    """Output of colcon, run in the workspace with no ROS and none of our variables around."""
    environment = {k: v for k, v in os.environ.items() if k in ('HOME', 'LANG', 'TMPDIR')}
    environment['PATH'] = f'{COLCON.parent}:/usr/bin:/bin'
    environment['COLCON_LOG_PATH'] = str(workspace / 'log')
    how = {'cwd': workspace, 'env': environment, 'timeout': 300}
    done = subprocess.run([COLCON, *arguments], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_colcon_build_installs_what_ros2_run_and_launch_look_for(workspace):
    colcon(workspace, 'build')
    prefix = workspace / 'install' / NAME
    for script in ('vla_policy', 'chunk_executor', 'simulator', 'vla-prune'):
        path = prefix / 'lib' / NAME / script
        assert os.access(path, os.X_OK), script
        # The interpreter of the shell that runs it: the environment with torch, not colcon's.
        assert path.read_text(encoding='utf-8').startswith('#!/usr/bin/env python3\n')
    share = prefix / 'share'
    assert (share / 'ament_index/resource_index/packages' / NAME).is_file()
    assert (share / NAME / 'package.xml').is_file()
    assert (share / NAME / 'config/training').is_dir()
    assert (share / NAME / 'hook' / 'ament_prefix_path.sh').is_file()
