#!/usr/bin/env python3
"""Counts what the project holds itself to: lines, files, importers, parameters, comments.

    python scripts/code_figures.py [--room NAME] [--list]

``--room pruning`` counts one folder of the package and of the tests; ``--list`` names the places.
"""

import argparse
import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'vla_prune_ros'


def lines(path: Path) -> int:
    return len(path.read_text(encoding='utf-8').splitlines())


def comment_lines(path: Path) -> int:
    text = path.read_text(encoding='utf-8')
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({t.start[0] for t in tokens if t.type == tokenize.COMMENT})


def docstring_lines(tree: ast.Module) -> int:
    total = 0
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            total += node.body[0].end_lineno - node.body[0].lineno + 1
    return total


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported(tree: ast.Module, module: str, package: bool, known: set[str]) -> set[str]:
    """Modules of the package that a module imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = module.split('.')
                parts = parts[: len(parts) - node.level + int(package)]
                base = '.'.join([*parts, base]) if base else '.'.join(parts)
            for alias in node.names:
                full = f'{base}.{alias.name}'
                found.add(full if full in known else base)
    return found & known


def parameters(node: ast.FunctionDef) -> int:
    """How many arguments a caller can give."""
    args = node.args
    names = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
    return len([n for n in names if n not in ('self', 'cls')])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--room', default='', help='a folder of the package')
    parser.add_argument('--list', action='store_true', help='name the places')
    options = parser.parse_args()
    everything = sorted((ROOT / PACKAGE).rglob('*.py'))
    trees = {path: ast.parse(path.read_text(encoding='utf-8')) for path in everything}
    known = {module_name(path) for path in everything}
    importers = defaultdict(set)
    for path, tree in trees.items():
        for name in imported(tree, module_name(path), path.name == '__init__.py', known):
            importers[name].add(module_name(path))
    room = ROOT / PACKAGE / options.room
    source = [p for p in everything if p.is_relative_to(room) and p.stat().st_size]
    tests = sorted((ROOT / 'test' / options.room).rglob('*.py'))

    small, many, positional = [], [], []
    for path in source:
        where = str(path.relative_to(ROOT))
        if lines(path) < 60 and len(importers[module_name(path)]) == 1:
            small.append(f'{where}: {lines(path)} lines, imported by one')
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.FunctionDef) and parameters(node) > 7:
                many.append(f'{where}:{node.lineno} {node.name}: {parameters(node)} parameters')
            if isinstance(node, ast.Call) and len(node.args) >= 6:
                starred = any(isinstance(a, ast.Starred) for a in node.args)
                if not starred:
                    positional.append(f'{where}:{node.lineno}: {len(node.args)} arguments')
    total = sum(map(lines, source))
    print(f'source: {total} lines in {len(source)} files')
    print(f'tests: {sum(map(lines, tests))} lines in {len([t for t in tests if lines(t)])} files')
    print(f'files of one importer under 60 lines: {len(small)}')
    print(f'functions with more than 7 parameters: {len(many)}')
    print(f'calls with 6 or more positional arguments: {len(positional)}')
    comments = sum(map(comment_lines, source))
    documented = sum(docstring_lines(trees[p]) for p in source)
    print(f'comment lines: {comments} ({100 * comments / total:.1f} %)')
    print(f'docstring lines: {documented} ({100 * documented / total:.1f} %)')
    if options.list:
        for row in [*small, *many, *positional]:
            print(f'  {row}')


if __name__ == '__main__':
    main()
