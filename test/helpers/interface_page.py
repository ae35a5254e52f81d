"""docs/interface.md as data."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def interface():
    """Node -> title of a table -> its first column."""
    found, node, title = {}, '', ''
    for line in (ROOT / 'docs' / 'interface.md').read_text(encoding='utf-8').splitlines():
        if line.startswith('## '):
            node, title = line[3:], ''
            found[node] = {'Subscribes': [], 'Publishes': [], 'Services': [], 'Parameters': []}
        elif line.startswith('### '):
            title = line[4:]
        elif line.startswith('| `') and title in found[node]:
            found[node][title].append(line.split('`')[1])
    return {node: tables for node, tables in found.items() if tables['Parameters']}


def names(node, *titles):
    """Names of a node's topics or services, ``<camera>`` filled in."""
    found = [name for title in titles for name in interface()[node][title]]
    return {n.replace('<camera>', c) for n in found for c in ('primary', 'wrist')}
