"""The report of the hand-made result in ``replay_result``: console and page with figures written
out as a reader would, and the page as Chromium shows it."""

import base64
import re
import sys

import cv2
import numpy as np
import pytest
from browser import opened
from replay_result import (
    GREY,
    METHODS,
    bag,
    empty_bag,
    empty_row,
    image_uri,
    moment,
    result,
    row,
)

from vla_prune_ros.evaluate.replay import report
from vla_prune_ros.evaluate.replay.report import replay_html, replay_notes, replay_tables
from vla_prune_ros.evaluate.replay.thumbnails import overlay_uri

SCRIPT = '<script>alert("1")</script>&\'$x_1$'
LONG = 'very_long_' * 40
RIGHT_TO_LEFT = '\u202eשלום \u05d0'
HOSTILE = (SCRIPT, LONG, RIGHT_TO_LEFT, '"><img src=x onerror=alert(1)>', '{{ 7 * 7 }}')


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(report, 'bag_figures', lambda bag, methods: {})


# --- console ----------------------------------------------------------------------------------


def has(table, **cells):
    """Whether a row has these cells under these heads; ``_`` for a blank."""
    heads = [column.header.replace(' ', '_') for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return any(cells.items() <= dict(zip(heads, row, strict=True)).items() for row in rows)


def test_figures_of_the_result_stand_in_the_tables():
    cost, error, borders, bags = replay_tables(result([bag('first'), empty_bag(), bag('third')]))
    asked = {'method': 'specprune', 'queries': '4', 'refused': '1', 'tokens': '128'}
    assert has(cost, **asked, ms_p50='32.0', p95='96.5', refresh='3.25')
    assert has(borders, method='specprune', border_mm='1.75', inside='0.38')
    assert has(error, method='specprune', against='dense', mm='1.38', p95='2.75', deg='0.17')
    assert has(error, against='dense', end_mm='11.0', flips='5/4/3', apart_ms='52.5')
    assert has(bags, bag='first', **asked, ms_p50='32.0', mm_to_dense='1.38', to_recorded='6.62')
    assert has(bags, bag='third', method='dense', mm_to_dense='-', to_recorded='6.62')


def test_notes_name_losses_refusals_and_problems():
    """Of many problems the first are shown and all are counted."""
    codes = ['lost'] * 12 + ['unread', 'lost', 'unread']
    problems = tuple({'bag': 'b', 'code': c, 'text': f'number {i}'} for i, c in enumerate(codes))
    notes = '\n'.join(replay_notes(result(problems=problems)))
    for part in ('stale:front 13', 'skew 2', 'stale 1', '15', 'b: lost: number 11', 'unread 2'):
        assert part in notes
    assert 'number 12' not in notes


# --- page -------------------------------------------------------------------------------------


def page_cells(page, title):
    """Method -> cells of the table of that title."""
    section = page.partition(f'<h3>{title}</h3>')[2].partition('</section>')[0]
    rows = re.findall(r'<tr><th scope="row">.*?<bdi>(.*?)</bdi></th>(.*?)</tr>', section)
    return {method: re.findall('<td>(.*?)</td>', line) for method, line in rows}


def test_figures_of_the_result_stand_in_the_page(no_figures):
    page = replay_html(result())
    for title, method, figures in (
        ('Cost', 'dense', ['4', 'stale 1', '512', '100/0/0', '80.0', '96.5', '-']),
        ('Cost', 'specprune', ['128', '25/25/50', '32.0', '3.25', '4.50']),
        ('Against dense', 'specprune', ['24', '1.38', '2.75', '0.17', '11.0', '75.0', '5/4/3']),
        ('Against the recorded actions', 'dense', ['6.62']),  # 6.625 to even
        ('Against dense, per axis', 'specprune', ['1.38 (-2.50)', '6.38 (+2.50)', '75.0', '-']),
        ('Chunk borders', 'specprune', ['2', '1.75', '0.38', '14.0']),
    ):
        assert set(figures) <= set(page_cells(page, title)[method]), (title, method)
    assert '25.0 % of dense' in page and '2.50 x as fast as dense' in page
    assert 'specprune: fine, 64/256 patches kept' in page and 'no answer' not in page
    assert 'UNTRAINED' not in page


def test_what_is_unknown_is_compared_with_nothing(no_figures):
    """A method alone; one of which all was refused; and one that was never asked."""
    strip = (moment({'dense': '1' * 256}),)
    assert 'as fast as' not in replay_html(result(methods=('specprune',), untrained=True))
    refused = row('x', visual_tokens=None, latency_ms=None)
    page = replay_html(result([bag(strip=strip)], rows=(row('dense'), refused), untrained=True))
    assert 'as fast as' not in page and 'UNTRAINED' in page and 'no answer' in page
    page = replay_html(result([empty_bag()], rows=tuple(map(empty_row, METHODS))))
    queries, refused, *figures = page_cells(page, 'Cost')['dense']
    assert (queries, refused, set(figures)) == ('0', '0', {'-'})
    assert page_cells(page, 'Against dense') == {} and 'No query could be run' in page


def decoded(uri):
    head, _, body = uri.partition('base64,')
    assert head == 'data:image/jpeg;'
    coded = np.frombuffer(base64.b64decode(body), np.uint8)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def test_pruned_patches_are_darker_and_kept_ones_are_not():
    """On a flat grey image a kept patch keeps its grey and a pruned one has a quarter of it."""
    kept = np.random.default_rng(3).random(256) < 0.4
    image = decoded(overlay_uri(moment({}).image, ''.join('01'[int(k)] for k in kept)))
    assert image.shape == (224, 224, 3)
    for patch in range(256):
        y, x = divmod(patch, 16)
        inside = image[14 * y + 4 : 14 * y + 10, 14 * x + 4 : 14 * x + 10]
        grey = GREY if kept[patch] else GREY / 4
        assert abs(inside - grey).max() < 10, patch  # the loss of JPEG


def test_colours_stay_in_their_channels():
    image = np.zeros((224, 224, 3), np.uint8)
    image[...] = (220, 60, 20)
    assert abs(decoded(overlay_uri(image_uri(image), '1' * 256)) - image).max() < 10


def test_without_matplotlib_the_page_has_no_figures(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    page = replay_html(result())
    assert 'matplotlib' in page and 'image/png' not in page and 'image/jpeg' in page


def test_text_that_no_page_can_hold_is_replaced(no_figures):
    page = replay_html(result([bag('a\x00b\udcffc')]))  # as undecodable file names give it
    page.encode('utf-8')
    assert 'Bag a\ufffdb\ufffdc' in page


def test_a_browser_shows_the_page(tmp_path):
    """Nothing is fetched and nothing runs."""
    pytest.importorskip('matplotlib', reason='the plot extra is not installed')
    page = replay_html(result())
    sources = re.findall(r'\b(?:src|href)="([^"]*)', page)
    assert sources and all(re.match(r'data:image/(png|jpeg);base64,|#', s) for s in sources)
    assert not re.search(r'<(script|link|iframe|object|base)\b|url\(|@import', page)
    assert '//' not in re.sub('base64,[^"]*', '', page)
    for seen in opened(page, tmp_path, (1280, 400)):
        assert seen['content'] <= seen['width']  # tables scroll by themselves, the page does not
        assert min(seen['fonts']) >= 12
        images = seen['images']
        assert len(images) == 5 + 2  # figures, and a thumbnail per method
        assert all(min(image['natural']) > 0 for image in images)
        assert all(image['drawn'] >= 300 for image in images[:5])
        assert all(image['drawn'] >= 150 for image in images[5:])
        assert seen['scripts'] == 0
        assert [h for h in seen['headings'] if h.startswith('Bag')] == ['Bag kitchen']


def test_a_browser_shows_hostile_names_as_text(no_figures, tmp_path):
    """Everything that a user names is hostile, in turn."""
    methods = ('dense', *HOSTILE)
    bags = [
        bag(
            name,
            methods,
            path=name,
            there={n: {'type': name, 'count': 1} for n in (name, 'other ' + name)},
            topics={name: name, 'gone': name + '?'},
            instructions=(name,),
            losses={name: 1},
            problems=({'code': name, 'text': name},),
            recorded=name,
            strip=(moment(dict.fromkeys(methods, '1' * 256), camera=name),),
        )
        for name in HOSTILE
    ]
    made = result(
        bags,
        methods,
        problems=tuple({'bag': n, 'code': n, 'text': n} for n in HOSTILE * 6),
        command=SCRIPT,
        checkpoint=LONG,
        settings={'profile': RIGHT_TO_LEFT, LONG: LONG, SCRIPT: SCRIPT},
        machine={LONG: {SCRIPT: RIGHT_TO_LEFT}},
    )
    for seen in opened(replay_html(made), tmp_path, (1280, 400)):
        assert seen['content'] <= seen['width']
        assert seen['scripts'] == 0
        assert all(min(image['natural']) > 0 for image in seen['images'])
        assert len(seen['images']) == len(HOSTILE) * len(methods)
        for name in HOSTILE:
            assert seen['text'].count(name) > 15, name
            assert f'Bag {name}' in seen['headings']
