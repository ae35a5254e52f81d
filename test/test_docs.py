"""README and docs against the sources: links, commands, names of parameters, YAML and Python.

Expected values are the files of the checkout, the parser of the command line, the parameter
records, and docs/interface.md, which test_interface.py compares with running nodes.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from fake_launch import arguments, entities
from interface_page import interface, names

from vla_prune_ros.bags.topics import load_topics
from vla_prune_ros.cli import build_parser
from vla_prune_ros.config import from_mapping
from vla_prune_ros.nodes.executor import ExecutorParams
from vla_prune_ros.nodes.simulator import SimulatorParams
from vla_prune_ros.profiles import load_profile
from vla_prune_ros.runtime.params import PolicyParams

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
RECORDS = {
    'vla_policy': PolicyParams,
    'chunk_executor': ExecutorParams,
    'simulator': SimulatorParams,
}
LIFECYCLE = {'configure', 'activate', 'deactivate', 'cleanup', 'shutdown'}


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


def check_name(words, name):
    """A full name of a topic or service of our nodes exists; others are not looked at."""
    node, _, rest = name.strip('/').partition('/')
    if node in interface() and rest:
        topics = ('Subscribes', 'Publishes')
        titles = ('Services',) if words[1] == 'service' else topics
        assert f'~/{rest}' in names(node, *titles), words


def test_ros2_commands_name_what_the_nodes_have():
    shown = [w for _, w in commands() if w[0] == 'ros2']
    for page in PAGES:
        inline = re.findall(r'`(ros2 (?:topic|service|param|lifecycle) [^`]+)`', prose(page))
        shown += [shlex.split(c) for c in inline]
    assert len(shown) > 15
    for words in shown:
        for name in words:
            if name.startswith('/'):
                check_name(words, name)
        verb = ' '.join(words[1:3])
        if verb == 'launch vla_prune_ros':
            given = dict(w.split(':=', 1) for w in words[4:])
            assert set(given) <= set(arguments(entities(ROOT / 'launch' / words[3]))), words
            known = set.union(*(names(n, 'Subscribes', 'Publishes') for n in interface()))
            rules = given.get('remap', '').split()
            assert {rule.partition(':=')[0] for rule in rules} <= known, words
        elif verb == 'param set':
            assert words[4] in interface()[words[3].strip('/')]['Parameters'], words
        elif verb == 'lifecycle set':
            assert words[4] in LIFECYCLE, words


def test_nodes_are_started_with_parameters_that_they_have():
    started = [w[1:] for _, w in commands() if w[0] == 'scripts/bootstrap.sh']
    started = [words for words in started if words[0] != 'vla-prune']
    assert {w[0] for w in started} == set(interface())
    for words in started:
        for flag, value in zip(words, words[1:], strict=False):
            name = value.partition(':=')[0]
            if flag == '--params-file':
                assert (ROOT / value).is_file()
            elif flag == '-p':
                assert name in {*interface()[words[0]]['Parameters'], 'use_sim_time'}, words
            elif flag == '-r':
                assert name in names(words[0], 'Subscribes', 'Publishes'), words


def yaml_files(folder, key, least):
    """The YAML blocks with a key, as files."""
    found = [content for _, content in blocks('yaml') if key in yaml.safe_load(content)]
    assert len(found) >= least
    for i, content in enumerate(found):
        path = folder / f'{key}_{i}.yaml'
        path.write_text(content, encoding='utf-8')
        yield path


def test_profiles_and_topics_in_the_docs_load(tmp_path):
    for path in yaml_files(tmp_path, 'base', 2):
        assert load_profile(path).action_kind == 'delta_pose'
    for path in yaml_files(tmp_path, 'images', 1):
        topics = load_topics(path)
        assert set(topics.images) == {'primary', 'wrist'} and topics.ee_pose


def test_parameter_files_in_the_docs_are_valid():
    others = {'base', 'train', 'images'}  # profiles, trainings, topics of a bag
    found = [yaml.safe_load(content) for _, content in blocks('yaml')]
    found = [data for data in found if not others & set(data)]
    assert len(found) >= 4
    for data in found:
        for key, section in data.items():
            record, values = RECORDS[key.removeprefix('/**/')], section['ros__parameters']
            qos = [name for name in values if name.startswith('qos_overrides.')]
            assert {n.rsplit('.', 1)[1] for n in qos} <= {'history', 'depth', 'reliability'}
            from_mapping(record, {n: v for n, v in values.items() if n not in qos}, key)


def test_fine_tunings_in_the_docs_are_valid(tmp_path):
    pytest.importorskip('pydantic', reason='the train extra is not installed')
    from vla_prune_ros.train.config import read_settings

    shipped = (ROOT / 'config' / 'training').glob('*.yaml')
    for path in (*yaml_files(tmp_path, 'train', 1), *shipped):
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
    from vla_prune_ros.evaluate.closed_loop.tables import ResultRow, result_markdown

    page = text(ROOT / 'docs' / 'results.md')
    (file,) = (ROOT / 'docs' / 'benchmarks').glob('*-closed-loop.json')
    result = json.loads(text(file))
    rows = [from_mapping(ResultRow, row, file.name) for row in result['rows']]
    tables = result_markdown(rows, result['command']).split('\n\n')[:2]
    assert all(table.strip() in page for table in tables)
    assert result['command'] in page and not result['untrained']
