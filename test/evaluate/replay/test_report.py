"""The report against the hand-made result dict in ``replay_result``: its figures are written out
here as a reader would, and the page is taken apart by the parser of the standard library."""

import re
import sys
from html.parser import HTMLParser

import pytest
from replay_result import METHODS, bag, comparison, empty_bag, result, row, series

from vla_prune_ros.evaluate.replay import report as replay_bag_html
from vla_prune_ros.evaluate.replay.report import replay_html

VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
EVIL = '<script>alert("1")</script>&\'$x_1$'


class Page(HTMLParser):
    """Checks that tags are balanced; collects text, attributes, tables and headings."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.said = [], [], [], []
        self.tables, self.headings, self.declared = [], [], ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_decl(self, decl):
        self.declared = decl

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or '') for name, value in attributes]
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        elif tag in ('h1', 'h2', 'h3'):
            self.headings.append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == 'style':
            return
        self.said.append(data)
        if {'td', 'th'} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] in ('h1', 'h2', 'h3'):
            self.headings[-1] += data

    @property
    def text(self):
        return ' '.join(''.join(self.said).split())

    def row(self, method, length):
        """Cells of the first line of a table that begins with the method and is that long."""
        lines = (line for table in self.tables for line in table)
        return next(line[1:] for line in lines if line[0] == method and len(line) == length + 1)


@pytest.fixture
def real_pictures():
    pytest.importorskip('matplotlib', reason='the plot extra is not installed')


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Figures have tests of their own."""
    if 'real_pictures' not in request.fixturenames:
        monkeypatch.setattr(replay_bag_html, 'bag_pictures', lambda bag, methods: [])


def page_of(what):
    return Page(replay_html(what))


def test_the_page_is_html_5_and_whole():
    page = page_of(result())
    assert page.declared == 'DOCTYPE html'
    assert page.tags[:2] == ['html', 'head'] and page.tags.count('main') == 1
    assert ('meta', 'charset', 'utf-8') in page.attributes
    identifiers = [value for _, name, value in page.attributes if name == 'id']
    assert len(set(identifiers)) == len(identifiers) == 1


def test_nothing_is_fetched_and_nothing_runs(real_pictures):
    text = replay_html(result([bag(), bag('other')]))
    page = Page(text)
    sources = [value for _, name, value in page.attributes if name in ('src', 'href')]
    assert sources and all(re.match(r'data:image/(png|jpeg);base64,|#', s) for s in sources)
    assert not {'script', 'link', 'iframe', 'object', 'base'} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith('on')]
    assert 'url(' not in text and '@import' not in text and '//' not in re.sub(
        'base64,[^"]*', '', text
    )  # fmt: skip


def test_figures_of_the_dict_stand_in_the_tables():
    page = page_of(result())
    assert page.row('specprune', 9) == [
        '4', '1', 'stale 1', '128', '25/25/50', '32.0', '96.5', '3.25', '4.50',
    ]  # fmt: skip
    assert page.row('dense', 9) == [
        '4',
        '1',
        'stale 1',
        '512',
        '100/0/0',
        '80.0',
        '96.5',
        '-',
        '-',
    ]
    # Against dense: 1.375 mm and what the builder makes of it.
    assert page.row('specprune', 17) == [
        '24', '1.38', '0.69', '2.75', '5.50', '0.17', '0.09', '0.34', '0.69', '11.0', '22.0',
        '44.0', '75.0', '87.5', '5/4/3', '52.5', '90.0',
    ]  # fmt: skip
    assert page.row('dense', 17)[1] == '6.62'  # against the recorded actions, 6.625 to even
    assert page.row('specprune', 12) == [
        '1.38 (-2.50)', '2.38 (-1.50)', '3.38 (-0.50)', '4.38 (+0.50)', '5.38 (+1.50)',
        '6.38 (+2.50)', *['75.0'] * 5, '-',
    ]  # fmt: skip
    assert page.row('specprune', 7) == ['2', '1.75', '2.75', '0.38', '0.62', '14.0', '22.0']


def test_every_head_of_a_table_of_figures_has_its_unit_and_meaning():
    page = page_of(result())
    heads = page.tables[1][0][1:]
    assert heads[-2:] == ['latency, ms', 'refresh, ms']
    legend = page.text.split('what the columns mean')[1].split('Bag kitchen')[0]
    for table in page.tables[1:7]:
        for head in table[0][1:]:
            assert head in legend


def test_the_summary_is_in_words():
    said = page_of(result()).text
    assert 'Good, with remarks: unstamped.' in said
    assert 'Replayed bag kitchen (2.5 s, 4 queries) with the checkpoint weights/micro' in said
    assert (
        'specprune: 128 visual tokens (25.0 % of dense), 32.0 ms per query (2.50 x as fast as '
        'dense); differs from dense by 1.38 mm and 0.17 deg per step (p95 2.75 mm), gripper the '
        'same in 87.5 % of steps, and from the recorded actions by 6.62 mm' in said
    )
    assert said.index('Good') < said.index('Problems') < said.index('Cost')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'problems': []}, 'Good: no problems were found.'),
        ({'ok': False}, 'Bad result: unstamped.'),
        ({'untrained': True}, 'UNTRAINED WEIGHTS'),
    ],
)
def test_the_verdict_follows_the_dict(changes, words):
    assert words in page_of(result(**changes)).text
    assert words not in page_of(result()).text


def test_a_bag_is_described():
    page = page_of(result())
    cells = [line for table in page.tables for line in table]
    assert ['front', '/front/image', 'sensor_msgs/msg/Image', '75'] in cells
    assert ['/tf', 'tf2_msgs/msg/TFMessage', '4711'] in cells
    assert [['reason', 'count'], ['stale:front', '13'], ['skew', '2']] in page.tables
    assert 'Guessed by type and name' in page.text
    assert '2023-11-14 22:13:20 UTC' in page.text  # 1 700 000 000 s, as date(1) has it
    assert 'pick up the red cube' in page.text and 'from twist commands' in page.text
    named = page_of(result([bag(guessed=False)])).text
    assert 'Named by the user' in named and 'Guessed' not in named


def test_where_it_was_made_comes_last():
    page = page_of(result())
    assert page.headings[-4:] == ['How it was made', 'Settings', 'Machine', 'Versions']
    cells = [line for table in page.tables[-4:] for line in table]
    for line in (
        ['command', 'vla-prune replay kitchen --pruning dense,specprune'],
        ['period_s', '0.5'],
        ['packages numpy', '9.9.9'],
        ['vla_prune_ros', '1.2.3'],
    ):
        assert line in cells


def test_what_users_name_is_shown_and_never_read_as_html():
    methods = ('dense', EVIL)
    there = {EVIL: {'type': EVIL, 'count': 1}}
    one = bag(
        EVIL, methods, path=EVIL, there=there, topics={EVIL: EVIL}, instructions=[EVIL],
        losses={EVIL: 1}, problems=[{'code': EVIL, 'text': EVIL}], recorded=EVIL,
    )  # fmt: skip
    one['strip'][0]['camera'] = EVIL
    text = replay_html(
        result([one], methods, command=EVIL, checkpoint=EVIL, settings={EVIL: EVIL},
               machine={EVIL: {EVIL: EVIL}})
    )  # fmt: skip
    page = Page(text)
    assert 'script' not in page.tags
    assert page.text.count('<script>alert("1")</script>&\'$x_1$') > 15


def test_names_that_no_page_can_hold_are_mended():
    name = 'a\x00b\udcffc'  # a null, and half a pair as undecodable file names give it
    text = replay_html(result([bag(name)]))
    text.encode('utf-8')
    assert 'Bag a\ufffdb\ufffdc' in Page(text).headings


def test_every_bag_has_a_section_of_its_own():
    page = page_of(result([bag('first'), bag('second', guessed=False)]))
    links = [value for tag, name, value in page.attributes if (tag, name) == ('a', 'href')]
    identifiers = [value for _, name, value in page.attributes if name == 'id']
    assert links == ['#bag-1', '#bag-2'] and identifiers == ['bag-1', 'bag-2']
    assert page.headings.count('Cost') == 3  # of all, and of each
    assert page_of(result()).headings.count('Cost') == 1


def test_a_bag_without_a_query_says_so(real_pictures):
    page = page_of(result([empty_bag()], rows=[row(m, **NOTHING) for m in METHODS], ok=False))
    assert 'No query could be run' in page.text
    assert 'No method was run' in page_of(result([empty_bag(), bag()])).text
    assert 'Nothing was lost' in page.text and 'No pictures' in page.text
    assert 'img' not in page.tags
    assert page.row('dense', 9) == ['0', '0', '-', '-', '-', '-', '-', '-', '-']


NOTHING = {
    'queries': 0, 'refused': 0, 'refusals': {}, 'visual_tokens': None, 'latency_ms': None,
    'refresh_ms': None, 'modes': {}, 'versus_dense': None, 'versus_recorded': None,
    'borders': {'borders': 0, 'jump_mm': None, 'inside_mm': None, 'jerk_m_s3': None},
}  # fmt: skip


def test_a_bag_without_recorded_actions_says_so():
    rows = [row(m, versus_recorded=None) for m in METHODS]
    lines = {m: series(m, recorded_mm=[None] * 4, speed_m_s=[None] * 4) for m in METHODS}
    one = bag(rows=rows, recorded='', recorded_series=None, series=lines)
    page = page_of(result([one], rows=rows))
    assert 'No recorded actions to compare with' in page.text
    assert 'Against the recorded actions, per axis' not in page.headings


def test_parts_of_a_comparison_may_be_unknown():
    unknown = ('translation_mm', 'rotation_deg', 'end_mm', 'axes', 'sign_agreement',
               'gripper_agreement', 'flips')  # fmt: skip
    rows = [row('specprune', versus_dense=comparison(1, **dict.fromkeys(unknown)))]
    rows[0]['versus_recorded'] = None
    page = page_of(result([bag(methods=['specprune'], rows=rows)], ['specprune'], rows=rows))
    assert page.row('specprune', 17) == ['24', *['-'] * 16]


def test_without_matplotlib_the_tables_stand_all_the_same(monkeypatch):
    monkeypatch.undo()  # the real figures, which cannot be drawn
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    page = page_of(result())
    assert 'No figures: matplotlib is not installed' in page.text
    assert page.row('specprune', 17)[1] == '1.38'
    images = [v for tag, name, v in page.attributes if (tag, name) == ('img', 'src')]
    assert len(images) == 2 and all(v.startswith('data:image/jpeg') for v in images)  # the strip


def test_many_problems_are_folded():
    problems = [{'bag': 'kitchen', 'code': 'lost', 'text': f'chunk {i}'} for i in range(50)]
    page = page_of(result(problems=problems))
    assert '30 more' in page.text and 'chunk 49' in page.text
    assert page.text.count('Good, with remarks: lost.') == 1
