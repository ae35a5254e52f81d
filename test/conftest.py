"""What every test shares: a private ROS graph, two threads, reasoned skips, no process left."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 3.0
THREADS = '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2'

# Before anything imports torch or rclpy. Never the domain of the user's shell: a robot may
# listen there.
os.environ.update(
    {
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTRTPS_DEFAULT_PROFILES_FILE': str(ROOT / 'config' / 'fastdds_large_images.xml'),
        'HF_HUB_OFFLINE': '1',
        'OMP_NUM_THREADS': THREADS,
        'MKL_NUM_THREADS': THREADS,
    }
)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background: so are children
    signal.signal(signal.SIGINT, signal.default_int_handler)
if os.environ.get('ROS_DISTRO') == 'humble':  # it does not know the discovery range
    os.environ['ROS_LOCALHOST_ONLY'] = '1'


@pytest.fixture(scope='session')
def data_dir() -> Path:
    """``test/data``: small inputs and expected numbers that are kept with the tests."""
    return ROOT / 'test' / 'data'


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    """An optional folder with more expected numbers, named by ``VLA_PRUNE_GOLDEN_DIR``."""
    folder = os.environ.get('VLA_PRUNE_GOLDEN_DIR', '')
    if not folder or not Path(folder).is_dir():
        pytest.skip('VLA_PRUNE_GOLDEN_DIR does not name a folder')
    return Path(folder)


@pytest.fixture(scope='session')
def renderer() -> str:
    """Name of the OpenGL backend of the simulator, which is chosen now."""
    pytest.importorskip('robosuite', reason='the sim extra is not installed')
    from vla_prune_ros.errors import VlaPruneError
    from vla_prune_ros.sim.rendering import apply_gl

    try:
        return apply_gl()
    except VlaPruneError as error:
        pytest.skip(str(error))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


NEEDS = {
    'ros': (lambda: find_spec('rclpy') is not None, 'rclpy is not installed'),
    'gpu': (_has_cuda, 'no CUDA device'),
    'libero': (lambda: find_spec('libero') is not None, 'libero is not installed'),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, with the reason."""
    # Files with slow tests take longest without them, too. One that begins last would end alone.
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)
    for name, (present, reason) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not present():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _children() -> dict[int, str]:
    """Process id -> command line of this process's living children and adopted grandchildren."""
    try:  # the search through /proc is slow, and nearly every test has no children
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}
    found = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(')')[2].split()[:2]
            if int(parent) == os.getpid() and state != 'Z':
                line = (
                    (stat.parent / 'cmdline')
                    .read_bytes()
                    .replace(b'\0', b' ')
                    .decode(errors='replace')
                )
                found[int(stat.parent.name)] = line.strip()
    return found


def _helper_of_python(line: str) -> bool:
    return 'multiprocessing.resource_tracker' in line or 'multiprocessing.forkserver' in line


def _end_new_children(before: dict[int, str]) -> list[str]:
    """Command lines of children that outlive the grace time; they are killed."""
    deadline = time.monotonic() + GRACE_S
    while True:
        left = {
            pid: line
            for pid, line in _children().items()
            if pid not in before and not _helper_of_python(line)
        }
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


@pytest.fixture(scope='session', autouse=True)
def _adopt_orphans() -> Iterator[None]:
    """Orphaned grandchildren become our children, where the guards see them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _children()
    yield
    left = _end_new_children(before)
    assert not left, f'the test session left processes behind: {left}'


@pytest.fixture(autouse=True)
def _no_process_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a process behind fails, and the process ends; module fixtures may."""
    before = _children()
    yield
    left = _end_new_children(before)
    assert not left, f'{request.node.nodeid} left processes behind: {left}'
