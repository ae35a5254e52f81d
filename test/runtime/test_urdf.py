"""Where a URDF comes from: files and packages that the tests lay out themselves."""

import sys
from pathlib import Path

import pytest

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.runtime.kinematics import resolve_urdf

TEXT = '<robot name="ä"/>'


def write(path: Path, text: str = TEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


def refusal(value: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        resolve_urdf(value)
    return caught.value


@pytest.fixture
def shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Share folders of two prefixes of a ROS workspace, an empty entry between them."""
    prefixes = tmp_path / 'overlay', tmp_path / 'underlay'
    monkeypatch.setenv('AMENT_PREFIX_PATH', '::'.join(map(str, prefixes)))
    return tuple(prefix / 'share' for prefix in prefixes)


@pytest.mark.parametrize('before', ['', '\n  ', '\ufeff'])
def test_text_is_text(before: str) -> None:
    assert resolve_urdf(before + TEXT) == TEXT


@pytest.mark.parametrize('before', ['', '\ufeff', '\n'])
def test_a_path(tmp_path: Path, before: str) -> None:
    assert resolve_urdf(str(write(tmp_path / 'arm.urdf', before + TEXT))) == TEXT


def test_a_path_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    write(tmp_path / 'arm.urdf')
    assert resolve_urdf('~/arm.urdf') == TEXT


def test_a_path_without_a_file(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / 'arm.urdf'))
    assert str(tmp_path / 'arm.urdf') in error.what and 'package://' in error.remedy
    assert 'cannot be read' in refusal(str(tmp_path)).what


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / 'arm.urdf').write_bytes(b'\xff\xfe\x80')
    assert 'not UTF-8' in refusal(str(tmp_path / 'arm.urdf')).what


def test_the_first_prefix_that_has_the_file_wins(shares: tuple[Path, Path]) -> None:
    overlay, underlay = shares
    write(underlay / 'arm_description/urdf/arm.urdf', '<robot name="under"/>')
    (overlay / 'arm_description').mkdir(parents=True)
    address = 'package://arm_description/urdf/arm.urdf'
    assert resolve_urdf(address) == '<robot name="under"/>'
    write(overlay / 'arm_description/urdf/arm.urdf', '<robot name="over"/>')
    assert resolve_urdf(address) == '<robot name="over"/>'


def test_a_python_package_is_found_and_not_imported(
    shares: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / 'site/some_arm_models/__init__.py', 'raise RuntimeError("imported")')
    write(tmp_path / 'site/some_arm_models/urdf/arm.urdf')
    monkeypatch.syspath_prepend(tmp_path / 'site')
    address = 'package://some_arm_models/urdf/arm.urdf'
    assert resolve_urdf(address) == TEXT
    assert 'some_arm_models' not in sys.modules
    write(shares[1] / 'some_arm_models/urdf/arm.urdf', '<robot name="share"/>')
    assert resolve_urdf(address) == '<robot name="share"/>'  # the workspace comes first


@pytest.mark.parametrize('name', ['no_such_package', 'os.path', '', '..'])
def test_an_unknown_package(shares: tuple[Path, Path], name: str) -> None:
    error = refusal(f'package://{name}/arm.urdf')
    assert 'no package' in error.what and 'source' in error.remedy


def test_a_package_without_the_file(shares: tuple[Path, Path]) -> None:
    (shares[1] / 'arm_description').mkdir(parents=True)
    error = refusal('package://arm_description/arm.urdf')
    assert str(shares[1] / 'arm_description') in error.what


def test_without_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    assert 'no package' in refusal('package://arm_description/arm.urdf').what
