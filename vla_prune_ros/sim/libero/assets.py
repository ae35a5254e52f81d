"""Where LIBERO's meshes and textures come from. Without a ``config.yaml`` hf-libero asks on
standard input, without assets it downloads them: both are settled here before it is imported."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from ...errors import VlaPruneError

INSTALL = 'pip install "vla_prune_ros[sim,libero]", then --no-deps hf-libero==0.1.4 bddl==1.0.1'
REINSTALL = 'pip install --no-deps --force-reinstall hf-libero==0.1.4'

ASSETS_VARIABLE = 'VLA_PRUNE_LIBERO_ASSETS'
HUB_ASSETS = 'lerobot/libero-assets'
PARTS = (
    'articulated_objects',
    'scenes',
    'stable_hope_objects',
    'stable_scanned_objects',
    'textures',
    'turbosquid_objects',
)

STANDIN = Path(__file__).with_name('standin')  # primitives in place of LIBERO's assets


@dataclass(frozen=True)
class Assets:
    folder: Path
    generated: bool

    @property
    def label(self) -> str:
        if self.generated:
            return 'generated primitive assets: not comparable with published results'
        return f'LIBERO assets of {self.folder}'


def libero_version() -> str:
    for module, distribution in (('libero', 'hf-libero'), ('bddl', 'bddl')):
        if importlib.util.find_spec(module) is None:
            raise VlaPruneError(f'{distribution} is not installed', INSTALL)
    try:
        return importlib.metadata.version('hf-libero')
    except importlib.metadata.PackageNotFoundError:
        raise VlaPruneError('libero is installed, but is not hf-libero', INSTALL) from None


def configure() -> Path:
    """The configuration file in force: the user's (in ``LIBERO_CONFIG_PATH`` or ``~/.libero``) as
    it is; without one, a private one that ``LIBERO_CONFIG_PATH`` is set to."""
    libero_version()
    loaded = sys.modules.get('libero.libero')
    folder = Path(os.environ.get('LIBERO_CONFIG_PATH') or Path.home() / '.libero')
    file = Path(loaded.config_file) if loaded else folder / 'config.yaml'
    if not file.is_file():
        file = _private_config()
        os.environ['LIBERO_CONFIG_PATH'] = str(file.parent)
    paths = _read(file)
    for key in ('bddl_files', 'init_states'):
        if not paths.get(key) or not Path(paths[key]).is_dir():
            raise VlaPruneError(
                f'{file}: {key} does not name a folder',
                "correct it, or remove the file to use the package's own",
            )
    return file


def find_assets(wanted: str | Path = 'auto') -> Assets:
    """Nothing is downloaded unless ``'hub'`` says so.
    :param wanted: ``'auto'``: what :data:`ASSETS_VARIABLE` says, else the folder that LIBERO's
        configuration names, the package's own, or that of an earlier download, else the generated
        primitives; ``'generated'``: these; ``'hub'``: download, where that was not done before;
        else a folder."""
    config = configure()
    downloaded = Path.home() / '.cache' / 'libero' / 'assets'
    wanted = (os.environ.get(ASSETS_VARIABLE) or wanted) if wanted == 'auto' else wanted
    if wanted == 'generated':
        folder = STANDIN
    elif wanted == 'hub':
        folder = _download(downloaded)
    elif wanted == 'auto':
        named = Path(_read(config).get('assets', ''))
        candidates = [named, _package() / 'assets', downloaded]
        folder = next((found for found in candidates if not _missing(found)), STANDIN)
    else:
        folder = Path(wanted).expanduser().resolve()
        missing = _missing(folder)
        if missing:
            raise VlaPruneError(
                f'{folder} is not a folder of LIBERO assets (no {missing[0]})',
                "name the folder 'assets' of a LIBERO checkout, or use 'auto', 'generated' or "
                "'hub'",
            )
    return Assets(folder, (folder / 'GENERATED.txt').is_file())


def use_assets(assets: Assets) -> None:
    import libero.libero

    libero.libero._assets_path_cache = str(assets.folder)


def _private_config() -> Path:
    package = _package()
    paths = {
        'benchmark_root': str(package),
        'bddl_files': str(package / 'bddl_files'),
        'init_states': str(package / 'init_files'),
        'datasets': str(package.parent / 'datasets'),
        'assets': str(package / 'assets'),
    }
    # One per installation: several environments of one user do not share their paths.
    name = 'config-' + hashlib.sha256(str(package).encode()).hexdigest()[:12]
    file = Path.home() / '.cache' / 'vla_prune_ros' / 'libero' / name / 'config.yaml'
    text = yaml.safe_dump(paths)
    try:
        if not file.is_file() or file.read_text(encoding='utf-8') != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f'.{file.name}-')
            with os.fdopen(handle, 'w', encoding='utf-8') as stream:
                stream.write(text)
            os.replace(draft, file)
    except OSError as error:
        raise VlaPruneError(
            f'{file.parent} cannot be written ({error.strerror or error})',
            'set HOME to a folder that can',
        ) from None
    return file


def _read(file: Path) -> dict[str, str]:
    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise VlaPruneError(
            f'{file} cannot be read ({type(error).__name__})', 'correct or remove it'
        ) from None
    pairs = content.items() if isinstance(content, dict) else ()
    return {str(key): str(value) for key, value in pairs}


def _package() -> Path:
    return Path(importlib.util.find_spec('libero').submodule_search_locations[0]) / 'libero'


def _missing(folder: Path) -> list[str]:
    return [part for part in PARTS if folder == Path() or not (folder / part).is_dir()]


def _download(folder: Path) -> Path:
    from huggingface_hub import snapshot_download

    done = folder.parent / 'assets.complete'
    if done.is_file() and not _missing(folder):
        return folder
    try:
        snapshot_download(HUB_ASSETS, repo_type='dataset', local_dir=folder)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VlaPruneError(
            f'LIBERO assets cannot be downloaded from {HUB_ASSETS} ({reason})',
            "connect this machine, name a folder with them, or use assets='generated'",
        ) from None
    if _missing(folder):
        raise VlaPruneError(
            f'{HUB_ASSETS} came without {_missing(folder)[0]}', 'name a folder with LIBERO assets'
        )
    with contextlib.suppress(OSError):
        done.touch()
    return folder
