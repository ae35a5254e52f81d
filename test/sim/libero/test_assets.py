"""Where LIBERO's files come from: no question, no download without consent, the user's first."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.libero import assets as libero_assets

pytestmark = pytest.mark.libero
if not (find_spec('libero') and find_spec('bddl')):
    pytest.skip('hf-libero or bddl is not installed', allow_module_level=True)

PARTS = """articulated_objects scenes stable_hope_objects stable_scanned_objects textures
    turbosquid_objects"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A new user on this machine: nothing configured, LIBERO not loaded, no network."""
    monkeypatch.setenv('HOME', str(tmp_path))
    # setenv first: what configure() sets is taken back as well.
    monkeypatch.setenv('LIBERO_CONFIG_PATH', '')
    monkeypatch.delenv('VLA_PRUNE_LIBERO_ASSETS', raising=False)
    monkeypatch.delitem(sys.modules, 'libero.libero', raising=False)
    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr('builtins.input', refuse)
    return tmp_path


def refuse(*arguments):
    raise AssertionError(f'network or standard input was used: {arguments}')


def asset_folder(path: Path) -> Path:
    for part in PARTS.split():
        (path / part).mkdir(parents=True)
    return path


def write_config(folder: Path, **changes: str) -> Path:
    package = Path(find_spec('libero').submodule_search_locations[0]) / 'libero'
    paths = {
        'benchmark_root': str(package),
        'bddl_files': str(package / 'bddl_files'),
        'init_states': str(package / 'init_files'),
        'datasets': str(folder),
        'assets': str(folder / 'nowhere'),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.yaml').write_text(yaml.safe_dump({**paths, **changes}), encoding='utf-8')
    return folder / 'config.yaml'


def test_a_new_user_gets_a_private_configuration_and_generated_assets(home):
    assets = libero_assets.find_assets()
    assert assets.generated and 'not comparable with published results' in assets.label
    config = Path(os.environ['LIBERO_CONFIG_PATH']) / 'config.yaml'
    assert home / '.cache' / 'vla_prune_ros' in config.parents
    paths = yaml.safe_load(config.read_text(encoding='utf-8'))
    assert set(paths) == {'benchmark_root', 'bddl_files', 'init_states', 'datasets', 'assets'}
    assert list(Path(paths['bddl_files']).glob('*/*.bddl'))
    assert not (home / '.libero').exists()


def test_the_users_configuration_is_used_and_not_changed(home):
    own = asset_folder(home / 'LIBERO' / 'assets')
    config = write_config(home / '.libero', assets=str(own))
    before = config.read_bytes()
    assets = libero_assets.find_assets()
    assert assets.folder == own and not assets.generated and str(own) in assets.label
    assert config.read_bytes() == before
    assert os.environ['LIBERO_CONFIG_PATH'] == ''


def test_a_home_that_cannot_be_written_is_named(home, monkeypatch):
    (home / 'file').touch()
    monkeypatch.setenv('HOME', str(home / 'file'))
    with pytest.raises(VlaPruneError, match='HOME'):
        libero_assets.find_assets()


@pytest.mark.parametrize('content', [None, '', '[1, 2', '- a list', '\0'])
def test_a_stale_or_broken_configuration_is_named(home, content):
    config = write_config(home / '.libero', bddl_files=str(home / 'gone'))
    if content is not None:
        config.write_text(content, encoding='utf-8')
    with pytest.raises(VlaPruneError, match=f'{config}' if content else f'{config}: bddl_files'):
        libero_assets.find_assets()


def test_a_download_is_found_once_it_is_complete(home):
    earlier = home / '.cache' / 'libero' / 'assets'
    earlier.mkdir(parents=True)
    (earlier / 'scenes').mkdir()
    generated = libero_assets.find_assets()
    assert generated.generated
    (earlier / 'scenes').rmdir()
    asset_folder(earlier)
    assert libero_assets.find_assets().folder == earlier
    assert libero_assets.find_assets('generated') == generated
    assert libero_assets.find_assets(str(generated.folder)).generated  # labelled there, too


def test_a_named_folder_is_used_or_refused(home, monkeypatch):
    """By argument, or by the variable, which says what auto means."""
    own = asset_folder(home / 'mine')
    assert libero_assets.find_assets(own).folder == own
    monkeypatch.setenv('VLA_PRUNE_LIBERO_ASSETS', str(own))
    assert libero_assets.find_assets().folder == own
    assert libero_assets.find_assets('generated').generated
    (own / 'scenes').rmdir()
    with pytest.raises(VlaPruneError, match='mine is not a folder of LIBERO assets .no scenes'):
        libero_assets.find_assets(own)
    asset_folder(home / '.cache' / 'libero' / 'assets')
    monkeypatch.setenv('VLA_PRUNE_LIBERO_ASSETS', 'generated')
    assert libero_assets.find_assets().generated


def test_the_hub_is_asked_only_where_that_is_said(home, monkeypatch):
    asked = []

    def download(repository, repo_type, local_dir):
        asked.append((repository, repo_type))
        asset_folder(Path(local_dir))

    monkeypatch.setattr('huggingface_hub.snapshot_download', download)
    for wanted in ('auto', 'generated'):
        libero_assets.find_assets(wanted)
    assert not asked
    assets = libero_assets.find_assets('hub')
    assert asked == [('lerobot/libero-assets', 'dataset')] and not assets.generated
    assert libero_assets.find_assets('hub') == assets and len(asked) == 1


def test_a_failed_download_says_what_else_there_is(home, monkeypatch):
    download = Mock(side_effect=OSError('no route to host\nsecond line'))
    monkeypatch.setattr('huggingface_hub.snapshot_download', download)
    with pytest.raises(VlaPruneError, match="no route to host.*assets='generated'") as error:
        libero_assets.find_assets('hub')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('module', 'name'), [('libero', 'hf-libero'), ('bddl', 'bddl')])
def test_a_missing_package_is_named(monkeypatch, module, name):
    real = libero_assets.importlib.util.find_spec
    monkeypatch.setattr(
        libero_assets.importlib.util,
        'find_spec',
        lambda wanted: None if wanted == module else real(wanted),
    )
    with pytest.raises(VlaPruneError, match=f'{name} is not installed.*--no-deps'):
        libero_assets.configure()


# Everything that LIBERO could ask or fetch, in a process of its own: imports, task files, model.
ALONE = """
import builtins, socket
def refuse(*arguments, **options):
    raise SystemExit(f'network or standard input was used: {arguments}')
builtins.input = socket.create_connection = socket.getaddrinfo = refuse
socket.socket.connect = refuse
from vla_prune_ros.sim.scene import make_scene
scene = make_scene('libero_object', ['4'], render=False)
print(scene.instruction, '|', scene.generated_assets)
scene.close()
"""


def test_a_scene_opens_without_network_and_input(tmp_path):
    environment = {**os.environ, 'HOME': str(tmp_path), 'OMP_NUM_THREADS': '1'}
    for name in ('LIBERO_CONFIG_PATH', 'VLA_PRUNE_LIBERO_ASSETS'):
        environment.pop(name, None)
    child = subprocess.run(
        [sys.executable, '-c', ALONE],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == 'pick up the ketchup and place it in the basket | True\n'
    assert not (tmp_path / '.libero').exists()
