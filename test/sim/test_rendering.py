"""The choice of an OpenGL backend. Trials are replaced by verdicts, but for those of children that
fail, and one real one."""

import os
import sys

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim import rendering

pytest.importorskip('mujoco', reason='the sim extra is not installed')


@pytest.fixture
def verdicts(monkeypatch):
    """Backend -> reason why its trial fails; the trials that were asked for, in order."""
    reasons, asked = {'egl': '', 'osmesa': ''}, []

    def trial(backend, device):
        asked.append(backend)
        return reasons[backend]

    monkeypatch.setattr(rendering, '_trial', trial)
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    return reasons, asked


@pytest.mark.parametrize(
    ('argument', 'variable', 'broken', 'tried'),
    [
        ('auto', '', '', ['egl']),
        ('auto', '', 'egl', ['egl', 'osmesa']),
        ('auto', 'OSMesa', '', ['osmesa']),
        ('egl', 'osmesa', '', ['egl']),
    ],
)
def test_the_order_of_trials(verdicts, monkeypatch, argument, variable, broken, tried):
    reasons, asked = verdicts
    reasons[broken] = 'no device'
    monkeypatch.setenv('MUJOCO_GL', variable)
    assert rendering.choose_gl(argument) == tried[-1] and asked == tried


@pytest.mark.parametrize(
    ('variable', 'asked', 'says'),
    [
        ('', ['egl', 'osmesa'], 'no device.*no library.*libegl1 libgl1-mesa-dri .*libosmesa6'),
        ('osmesa', ['osmesa'], 'MUJOCO_GL=osmesa .*no library.*libosmesa6'),  # not replaced
        ('glfw', [], 'MUJOCO_GL=glfw.*display'),
    ],
)
def test_what_does_not_render_is_named_with_its_remedy(
    verdicts, monkeypatch, variable, asked, says
):
    verdicts[0].update(egl='no device', osmesa='no library')
    monkeypatch.setenv('MUJOCO_GL', variable)
    with pytest.raises(VlaPruneError, match=says) as error:
        rendering.choose_gl()
    assert verdicts[1] == asked and '\n' not in str(error.value)


def test_opengl_loaded_for_another_backend_is_refused(verdicts, monkeypatch):
    monkeypatch.setitem(sys.modules, 'OpenGL', object())
    monkeypatch.setenv('PYOPENGL_PLATFORM', 'egl')
    with pytest.raises(VlaPruneError, match='loaded for egl, osmesa is wanted'):
        rendering.apply_gl('osmesa')


@pytest.mark.parametrize(
    ('visible', 'device'), [('', '0'), ('2,3', '2'), ('GPU-0a1b', '0'), (None, '0')]
)
def test_egl_device_follows_the_visible_gpu(monkeypatch, visible, device):
    monkeypatch.delenv('MUJOCO_EGL_DEVICE_ID', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert rendering._egl_device() == device


@pytest.mark.parametrize(
    ('script', 'reason'),
    [
        ('import os; os.abort()', 'the driver crashed, signal 6'),
        ('raise RuntimeError("no such device")', 'RuntimeError: no such device'),
        ('raise SystemExit(3)', 'exit code 3'),
    ],
)
def test_a_trial_survives_its_child(monkeypatch, script, reason):
    monkeypatch.setattr(rendering, '_TRIAL', script)
    rendering._trial.cache_clear()
    try:
        assert rendering._trial('egl', '0') == reason
    finally:
        rendering._trial.cache_clear()


def test_the_choice_of_this_machine_is_applied():
    try:
        backend = rendering.apply_gl()
    except VlaPruneError as error:
        pytest.skip(str(error))
    assert os.environ['MUJOCO_GL'] == os.environ['PYOPENGL_PLATFORM'] == backend
