"""README and docs against the sources: links, commands, YAML, Python and quoted messages.

Expected values are the files of the checkout, the parser of the command line, the records of the
parameters, the tables of the interface, and the text constants of the sources.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from vla_prune_ros.bags.topics import load_topics
from vla_prune_ros.cli import build_parser
from vla_prune_ros.profiles import load_profile

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
# Commands of others that the pages show; their own programs check them.
FOREIGN = {
    'accelerate',
    'apt',
    'cd',
    'colcon',
    'export',
    'pip',
    'python3',
    'rosdep',
    'tensorboard',
    '.',
}
FOREIGN_ROS2 = {'bag play', 'topic list', 'topic info'}


def text(page):
    return page.read_text(encoding='utf-8')


def blocks(language):
    """(page, content) of every fenced block in a language."""
    found = [(p.name, m[2]) for p in PAGES for m in FENCE.finditer(text(p)) if m[1] == language]
    assert found, f'no {language} block in the docs'
    return found


def prose(page):
    """A page without its fenced blocks."""
    return FENCE.sub('', text(page))


def anchors(page):
    """Anchors of the headings, as GitHub makes them."""
    heads = re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in heads}


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r'\]\(([^)]+)\)', prose(page)):
        if not target.startswith('http'):
            file, _, anchor = target.partition('#')
            path = (page.parent / file).resolve() if file else page
            assert path.is_file(), f'{page.name}: {target}'
            assert not anchor or anchor in anchors(path), f'{page.name}: {target}'


def test_every_page_can_be_found_from_the_readme():
    linked = {(ROOT / t).resolve() for t in re.findall(r'\]\(([^)#]+)\)', text(PAGES[0]))}
    assert set(PAGES[2:]) <= linked


def test_pictures_are_small():
    for picture in (ROOT / 'docs' / 'images').iterdir():
        assert picture.stat().st_size < 150_000, picture.name


def commands():
    """(page, words) of every command in the shell blocks, parts of ``&&`` apart."""
    found = []
    for page, content in blocks('bash'):
        for line in content.replace('\\\n', ' ').splitlines():
            for part in line.split(' && '):
                words = shlex.split(part, comments=True)
                found += [(page, words)] if words else []
    return found


def check_tool(words):
    """``vla-prune`` with options that exist; argparse exits with 2 otherwise."""
    named_only = len(words) == 2 + (words[1] == 'train')
    try:
        build_parser().parse_args([*words[1:], '--help'] if named_only else words[1:])
    except SystemExit as end:
        assert named_only and end.code == 0, words


def console_scripts():
    source = text(ROOT / 'setup.py')
    return set(re.findall(r"'([\w-]+) = [\w.]+:main'", source))


def test_all_shell_commands_are_of_a_known_program():
    for page, words in commands():
        own = words[0] in {'make', 'vla-prune', 'ros2', 'scripts/bootstrap.sh'}
        assert own or words[0] in FOREIGN, f'{page}: {words}'


def test_make_targets_exist():
    targets = set(re.findall(r'^([a-z-]+):', text(ROOT / 'Makefile'), re.MULTILINE))
    shown = [w[1] for _, w in commands() if w[0] == 'make']
    shown += [t for p in PAGES for t in re.findall(r'`make ([a-z-]+)`', prose(p))]
    assert shown and set(shown) <= targets


def test_options_of_the_command_line_exist():
    shown = [w for _, w in commands() if w[0] == 'vla-prune']
    shown += [w[1:] for _, w in commands() if w[:2] == ['scripts/bootstrap.sh', 'vla-prune']]
    for page in PAGES:
        inline = re.findall(r'`(?:time )?(vla-prune [^`]+)`', prose(page))
        shown += [shlex.split(c) for c in inline if '...' not in c]
    assert len(shown) > 10
    for words in shown:
        check_tool(words)


def test_the_python_packages_of_the_readme_are_those_of_the_dependencies():
    lines = [' '.join(w) for p, w in commands() if p == 'README.md' and w[0] == 'pip']
    assert lines and all(line in text(ROOT / 'docs' / 'dependencies.md') for line in lines)


def launch_arguments(name):
    """Arguments that a launch file declares."""
    tree = ast.parse(text(ROOT / 'launch' / name))
    return {
        n.args[0].value
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and getattr(n.func, 'id', '') == 'DeclareLaunchArgument'
    }


@pytest.fixture(scope='module')
def tables():
    """Tables of the interface; they need rclpy."""
    pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')
    from vla_prune_ros.nodes.tools import interface_doc as interface_tables

    return interface_tables


def names(tables, kind, node):
    """Names of a node's topics or services, ``<camera>`` filled in."""
    rows = {'services': (tables.SERVICES,), 'out': (tables.PUBLISHED,)}.get(
        kind, (tables.SUBSCRIBED, tables.PUBLISHED)
    )
    found = [row.name for table in rows for row in table[node]]
    return {n.replace('<camera>', c) for n in found for c in ('primary', 'wrist')}


def own(tables, name):
    """(node, private name) of a full name, or None for a foreign one."""
    node, _, rest = name.lstrip('/').partition('/')
    return (node, f'~/{rest}') if node in tables.NODES and rest else None


@pytest.mark.ros
def test_ros2_commands_name_what_the_nodes_have(tables):
    shown = [w for _, w in commands() if w[0] == 'ros2']
    for page in PAGES:
        inline = re.findall(r'`(ros2 (?:topic|service|param|lifecycle) [^`]+)`', prose(page))
        shown += [shlex.split(c) for c in inline]
    checked = 0
    for words in shown:
        for name in (w for w in words if w.startswith('/')):
            found = own(tables, name)
            if found:
                kind = 'services' if words[1] == 'service' else 'any'
                assert found[1] in names(tables, kind, found[0]), words
                checked += 1
        checked += check_ros2(tables, words)
    assert checked > 15


def check_ros2(tables, words):
    """Launch arguments, types of services, parameters and transitions; True where one was met."""
    verb = ' '.join(words[1:3])
    if verb == 'launch vla_prune_ros':
        given = dict(w.split(':=', 1) for w in words[4:])
        assert set(given) <= launch_arguments(words[3]), words
        check_remaps(tables, given.get('remap', '').split())
    elif verb == 'service call' and own(tables, words[3]):
        node, name = own(tables, words[3])
        types = {s.name: f'std_srvs/srv/{s.kind.__name__}' for s in tables.SERVICES[node]}
        assert types[name] == words[4]
    elif verb == 'param set':
        assert words[4] in tables.NODES[words[3].strip('/')][1].__dataclass_fields__
    elif verb == 'lifecycle set':
        assert words[4] in {'configure', 'activate', 'deactivate', 'cleanup', 'shutdown'}
    else:
        assert words[1] in ('service', 'topic', 'bag') or verb in FOREIGN_ROS2, words
        return False
    return True


def check_remaps(tables, rules):
    """Left sides are topics of a node of ours."""
    known = set.union(*(names(tables, 'any', n) for n in tables.NODES))
    for rule in rules:
        source, sign, target = rule.partition(':=')
        assert source in known and sign and target.startswith('/'), rule


@pytest.mark.ros
def test_nodes_are_started_with_parameters_that_they_have(tables):
    started = [w[1:] for _, w in commands() if w[0] == 'scripts/bootstrap.sh']
    started = [words for words in started if words[0] != 'vla-prune']
    assert {w[0] for w in started} == console_scripts() - {'vla-prune'}
    for words in started:
        record = tables.NODES[words[0]][1]
        for flag, value in zip(words, words[1:], strict=False):
            name, _, target = value.partition(':=')
            if flag == '--params-file':
                assert (ROOT / value).is_file()
            elif flag == '-p':
                assert name in {*record.__dataclass_fields__, 'use_sim_time'}, words
            elif flag == '-r':
                assert name in names(tables, 'any', words[0]), words
                assert own(tables, target), words


def yaml_blocks():
    return [(page, yaml.safe_load(content), content) for page, content in blocks('yaml')]


def test_profiles_in_the_docs_load(tmp_path):
    found = [content for _, data, content in yaml_blocks() if 'base' in data]
    assert len(found) >= 2
    for i, content in enumerate(found):
        path = tmp_path / f'profile_{i}.yaml'
        path.write_text(content, encoding='utf-8')
        assert load_profile(path).action_kind == 'delta_pose'


@pytest.mark.ros
def test_parameter_files_in_the_docs_are_valid(tables):
    from vla_prune_ros.config import from_mapping

    others = {'base', 'train', 'images'}  # profiles, trainings, topics of a bag
    found = [data for _, data, _ in yaml_blocks() if not others & set(data)]
    assert len(found) >= 4
    for data in found:
        for key, section in data.items():
            record, values = tables.NODES[key.removeprefix('/**/')][1], section['ros__parameters']
            qos = [name for name in values if name.startswith('qos_overrides.')]
            assert {n.rsplit('.', 1)[1] for n in qos} <= {'history', 'depth', 'reliability'}
            from_mapping(record, {n: v for n, v in values.items() if n not in qos}, key)


def test_topics_in_the_docs_load(tmp_path):
    found = [content for _, data, content in yaml_blocks() if 'images' in data]
    assert found
    for content in found:
        (tmp_path / 'topics.yaml').write_text(content, encoding='utf-8')
        topics = load_topics(tmp_path / 'topics.yaml')
        assert set(topics.images) == {'primary', 'wrist'} and topics.ee_pose


def test_fine_tunings_in_the_docs_are_valid(tmp_path):
    pytest.importorskip('pydantic', reason='the train extra is not installed')
    from vla_prune_ros.train.config import read_settings

    found = [content for _, data, content in yaml_blocks() if 'train' in data]
    found += [text(path) for path in (ROOT / 'config' / 'training').glob('*.yaml')]
    assert len(found) >= 4
    for i, content in enumerate(found):
        path = tmp_path / f'run_{i}.yaml'
        path.write_text(content, encoding='utf-8')
        assert read_settings(path).steps > 0


@pytest.mark.parametrize(('page', 'source'), blocks('python'), ids=lambda v: v[:12])
def test_python_of_the_docs_runs_as_written(page, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, page, 'exec'), {'__name__': 'example'})
    printed = capsys.readouterr().out
    # The last budgets of the table in docs/specprune.md: 96 + 88.
    assert ('dense (8, 7) 512' in printed and 'coarse (8, 7) 184' in printed) or (
        "{'primary': 256, 'wrist': 0}" in printed
    )


def test_tables_of_the_results_are_those_of_the_file_beside_them():
    from vla_prune_ros.config import from_mapping
    from vla_prune_ros.evaluate.closed_loop.tables import ResultRow, result_markdown

    page = text(ROOT / 'docs' / 'results.md')
    (file,) = (ROOT / 'docs' / 'benchmarks').glob('*-closed-loop.json')
    result = json.loads(text(file))
    rows = [from_mapping(ResultRow, row, file.name) for row in result['rows']]
    tables = result_markdown(rows, result['command']).split('\n\n')[:2]
    assert all(table.strip() in page for table in tables)
    assert result['command'] in page and not result['untrained']


def source_texts():
    """All text constants of the package; a field of an f-string reads as a zero character."""
    found = []
    for path in (ROOT / 'vla_prune_ros').rglob('*.py'):
        if path.name.startswith('interface_'):
            continue
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else '\0' for v in node.values)
                found.append(''.join(parts))
    return found


def test_messages_of_the_troubleshooting_page_are_those_of_the_sources():
    page = text(ROOT / 'docs' / 'troubleshooting.md')
    section = page.split('## By message')[1].split('\n## ')[0]
    rows = re.findall(r'^\| (`.+?`) \|', section, re.MULTILINE)
    quoted = [q for row in rows for q in re.findall(r'`([^`]+)`', row)]
    assert len(quoted) > 40
    texts = source_texts()
    for message in quoted:
        parts = [re.escape(p) for p in message.split('...')]
        pattern = re.compile('.*?'.join(parts).strip() or '$', re.DOTALL)
        assert any(pattern.search(t) for t in texts), message


def refusal_reasons():
    """Constants under which the policy node counts what it refuses."""
    found = set()
    files = [
        *(ROOT / 'vla_prune_ros/runtime').glob('*.py'),
        ROOT / 'vla_prune_ros/nodes/policy/query.py',
    ]
    files += [ROOT / 'vla_prune_ros/engine/policy.py', ROOT / 'vla_prune_ros/model/images.py']
    for path in files:
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'InputRefused':
                found |= {n.value for n in node.args[:1] if isinstance(n, ast.Constant)}
                found |= {
                    n.value
                    for n in ast.walk(node.args[0])
                    if isinstance(node.args[0], ast.IfExp) and isinstance(n, ast.Constant)
                }
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                first = node.value.elts[0] if node.value.elts else None
                if getattr(node.targets[0], 'id', '') == 'refusal':
                    found.add(first.value)
    return {f for f in found if isinstance(f, str)}


def test_every_reason_of_a_refusal_is_named():
    section = text(ROOT / 'docs' / 'troubleshooting.md').split('## Reasons in')[1]
    named = set(re.findall(r'`([a-z_]+)`', section))
    reasons = refusal_reasons()
    assert len(reasons) > 15 and reasons <= named
