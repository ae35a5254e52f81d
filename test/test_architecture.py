"""The structure of the package, read from its sources with ``ast``.

The expected arrows are those of the layout in docs: nodes, evaluate, train and cli stand on
runtime and sim, these on engine, that on model and pruning, and all on records,
profiles and errors.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'vla_prune_ros'

BOTTOM = {'records', 'profiles', 'errors', 'config'}
ENGINE = BOTTOM | {'model', 'pruning', 'engine'}
TOP = ENGINE | {'runtime', 'bags', 'sim'}
# Part -> the parts it may import besides itself; a dotted name allows that one module only.
MAY_IMPORT = {
    'errors': set(),
    'config': {'errors'},
    'records': set(),
    'profiles': BOTTOM,
    'pruning': BOTTOM,
    'model': BOTTOM | {'pruning.base', 'pruning.forward_state'},
    'engine': ENGINE,
    'runtime': ENGINE,
    'bags': ENGINE | {'runtime'},
    'sim': ENGINE | {'runtime'},
    'nodes': TOP,
    'evaluate': TOP,
    'train': TOP | {'evaluate'},  # it measures success while it trains
    'cli': TOP | {'nodes', 'evaluate', 'train'},
    '': {'records', 'engine.load', 'engine.policy'},  # the package itself: the stable Python API
}
ROS = {'rclpy', 'rcl_interfaces', 'builtin_interfaces', 'std_srvs'}
ROS |= {'ament_index_python', 'launch', 'launch_ros'}
HEAVY = {'torch', 'transformers', 'robosuite', 'mujoco', 'pinocchio'}


def modules() -> dict[str, Path]:
    """Dotted name inside the package -> file; the package itself is the empty name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob('*.py')):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix('').parts
        found['.'.join(p for p in parts if p != '__init__')] = path
    return found


MODULES = modules()
NAMES = sorted(MODULES)


def nodes_run_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: not functions, not ``if TYPE_CHECKING``."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            yield from nodes_run_at_import(node.orelse)
            continue
        yield node
        for field in ('body', 'orelse', 'finalbody'):
            yield from nodes_run_at_import(getattr(node, field, []))
        for handler in getattr(node, 'handlers', []):
            yield from nodes_run_at_import(handler.body)


def imports(name: str, at_import_only: bool = False) -> set[str]:
    """Absolute dotted names that a module imports, and the modules that it imports names from."""
    tree = ast.parse(MODULES[name].read_text(encoding='utf-8'))
    is_package = MODULES[name].name == '__init__.py'
    here = [PACKAGE, *name.split('.')] if name else [PACKAGE]
    found = set()
    for node in nodes_run_at_import(tree.body) if at_import_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            source = '.'.join(base + ([node.module] if node.module else []))
            found.add(source)
            found.update(f'{source}.{alias.name}' for alias in node.names)
    return found


def inside(names: set[str]) -> set[str]:
    """Those that are modules of this package, as names inside it."""
    local = {n[len(PACKAGE) + 1 :] for n in names if n == PACKAGE or n.startswith(PACKAGE + '.')}
    return {n for n in local if n in MODULES and n}


def reached_at_import(name: str) -> set[str]:
    """Top-level names of the foreign packages that importing a module brings in, transitively."""
    seen, foreign, queue = set(), set(), ['', name]
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        found = imports(module, at_import_only=True)
        foreign.update(n.split('.')[0] for n in found if n.split('.')[0] != PACKAGE)
        for local in inside(found) | {module}:
            parts = local.split('.')
            queue.extend('.'.join(parts[:i]) for i in range(1, len(parts) + 1))
    return foreign


@pytest.mark.parametrize('name', NAMES)
def test_imports_follow_the_arrows(name):
    part = name.split('.')[0]
    allowed = MAY_IMPORT[part]
    for target in inside(imports(name)):
        top = target.split('.')[0]
        ok = (
            top == part
            or top in allowed
            or target in allowed
            or any(a.startswith(target + '.') for a in allowed)
        )
        assert ok, f'{name or PACKAGE} imports {target}'


@pytest.mark.parametrize('name', NAMES)
def test_only_nodes_import_ros_and_nobody_what_is_not_installed(name):
    tops = {n.split('.')[0] for n in imports(name)}
    ros = {t for t in tops if t in ROS or t.endswith('_msgs')}
    assert not ros or name.split('.')[0] == 'nodes', f'{name} imports {sorted(ros)}'
    tops = {n.split('.')[0] for n in imports(name, at_import_only=True)}
    assert not tops & {'timm', 'torchvision', 'tensorflow', 'cv_bridge'}


def test_the_walk_sees_torch_where_it_is():
    assert 'torch' in reached_at_import('engine.policy')
    assert 'rclpy' in reached_at_import('nodes.policy.node')


@pytest.mark.parametrize(
    ('name', 'never'),
    [('nodes.executor', HEAVY), ('cli', HEAVY | {'rclpy'}), ('', HEAVY | {'rclpy'})],
)
def test_light_processes_stay_light(name, never):
    assert not reached_at_import(name) & never


@pytest.mark.parametrize('part', ['model', 'pruning', 'runtime', 'engine', 'bags'])
def test_the_core_does_not_reach_ros_or_a_simulator(part):
    for name in (n for n in NAMES if n.split('.')[0] == part):
        assert not reached_at_import(name) & {'rclpy', 'robosuite', 'mujoco'}, name


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Public functions, and public methods of public classes."""
    for node in body:
        if not getattr(node, 'name', '_').startswith('_'):
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node.body)
            else:
                yield node


@pytest.mark.parametrize('name', NAMES)
def test_public_names_are_annotated(name):
    for node in public_functions(ast.parse(MODULES[name].read_text(encoding='utf-8')).body):
        spec = node.args
        every = (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg)
        bare = {a.arg for a in every if a is not None and a.annotation is None} - {'self', 'cls'}
        assert not bare and node.returns is not None, f'{node.name}: {bare or "the result"}'


def test_syntax_is_that_of_python_3_10():
    for path in MODULES.values():
        ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 10))
    assert sys.version_info >= (3, 10)
