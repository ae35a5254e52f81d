"""The report of the hand-made result in ``replay_result``: its rows, with figures written out as a
reader would, and the page as Chromium shows it."""

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

from vla_prune_ros.evaluate.replay import report as replay_report
from vla_prune_ros.evaluate.replay.report import build_report, replay_html
from vla_prune_ros.evaluate.replay.results import BagProblem, Problem, TopicCount
from vla_prune_ros.evaluate.replay.thumbnails import overlay_uri

SCRIPT = '<script>alert("1")</script>&\'$x_1$'
LONG = 'very_long_' * 40
RIGHT_TO_LEFT = '\u202eשלום \u05d0'
HOSTILE = (SCRIPT, LONG, RIGHT_TO_LEFT, '"><img src=x onerror=alert(1)>', '{{ 7 * 7 }}')


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(replay_report, 'bag_figures', lambda bag, methods: {})


def cells(tables, title):
    """Method -> cells of the table of that title."""
    (table,) = (table for table in tables if table.title == title)
    return {method: list(cells) for method, cells in table.rows.items()}


# --- rows -------------------------------------------------------------------------------------


def test_figures_of_the_result_stand_in_the_rows(no_figures):
    tables = build_report(result()).tables
    for title, method, figures in (
        ('Cost', 'dense', ['4', 'stale 1', '512', '100/0/0', '80.0', '96.5', '-']),
        ('Cost', 'specprune', ['128', '25/25/50', '32.0', '3.25', '4.50']),
        ('Against dense', 'specprune', ['24', '1.38', '2.75', '0.17', '11.0', '75.0', '5/4/3']),
        ('Against the recorded actions', 'dense', ['6.62']),  # 6.625 to even
        ('Against dense, per axis', 'specprune', ['1.38 (-2.50)', '6.38 (+2.50)', '75.0', '-']),
        ('Chunk borders', 'specprune', ['2', '1.75', '0.38', '14.0']),
    ):
        assert set(figures) <= set(cells(tables, title)[method]), (title, method)


def test_methods_are_set_against_dense(no_figures):
    dense, pruned = build_report(result()).summaries
    assert (dense.tokens_ratio, dense.speedup) == (None, None)
    assert (pruned.tokens_ratio, pruned.speedup) == (0.25, 2.5)
    (alone,) = build_report(result(methods=('specprune',))).summaries
    assert (alone.tokens_ratio, alone.speedup) == (None, None)
    refused = result(rows=(row('dense'), row('x', visual_tokens=None, latency_ms=None)))
    assert build_report(refused).summaries[1].speedup is None


def test_a_method_that_was_never_asked_has_dashes_and_no_summary(no_figures):
    report = build_report(result([empty_bag()], rows=tuple(map(empty_row, METHODS))))
    assert report.summaries == ()
    assert cells(report.tables, 'Cost')['dense'] == ['0', '0', *['-'] * 7]
    assert cells(report.tables, 'Against dense') == {}


# --- thumbnails -------------------------------------------------------------------------------


def decoded(uri):
    head, _, body = uri.partition('base64,')
    assert head == 'data:image/jpeg;'
    coded = np.frombuffer(base64.b64decode(body), np.uint8)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


LOSS = 10  # of JPEG, in the middle of a patch


def test_pruned_patches_are_darker_and_kept_ones_are_not(no_figures):
    """On a flat grey image a kept patch keeps its grey and a pruned one has a quarter of it."""
    kept = np.random.default_rng(3).random(256) < 0.4
    characters = ''.join('01'[int(k)] for k in kept)
    strip = (moment({'specprune': characters}),)
    ((line,),) = (b.thumbnails for b in build_report(result([bag(strip=strip)])).bags)
    nothing, mine = line.thumbnails
    assert (nothing.method, nothing.image) == ('dense', '')  # it gave no answer
    assert mine.caption == f'fine, {characters.count("1")}/256'
    image = decoded(mine.image)
    assert image.shape == (224, 224, 3)
    for patch in range(256):
        y, x = divmod(patch, 16)
        inside = image[14 * y + 4 : 14 * y + 10, 14 * x + 4 : 14 * x + 10]
        grey = GREY if kept[patch] else GREY / 4
        assert abs(inside.astype(float) - grey).max() < LOSS, patch


def test_colours_stay_in_their_channels():
    image = np.zeros((224, 224, 3), np.uint8)
    image[...] = (220, 60, 20)
    drawn = decoded(overlay_uri(image_uri(image), '1' * 256)).astype(float)
    assert abs(drawn - image).max() < LOSS


# --- the page ---------------------------------------------------------------------------------


def test_nothing_is_fetched_and_nothing_runs():
    page = replay_html(result([bag(), bag('other')]))
    sources = re.findall(r'\b(?:src|href)="([^"]*)', page)
    assert sources and all(re.match(r'data:image/(png|jpeg);base64,|#', s) for s in sources)
    assert not re.search(r'<(script|link|iframe|object|base)\b|url\(|@import', page)
    assert '//' not in re.sub('base64,[^"]*', '', page)


def test_untrained_weights_are_named(no_figures):
    assert 'UNTRAINED' in replay_html(result(untrained=True))
    assert 'UNTRAINED' not in replay_html(result())


def test_without_matplotlib_the_page_has_no_figures(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    page = replay_html(result())
    assert 'matplotlib' in page and 'image/png' not in page and 'image/jpeg' in page


def test_text_that_no_page_can_hold_is_replaced(no_figures):
    page = replay_html(result([bag('a\x00b\udcffc')]))  # as undecodable file names give it
    page.encode('utf-8')
    assert 'Bag a\ufffdb\ufffdc' in page


@pytest.fixture(scope='module')
def hostile():
    """Everything that a user names is hostile, in turn."""
    methods = ('dense', *HOSTILE)
    bags = [
        bag(
            name,
            methods,
            path=name,
            there={name: TopicCount(name, 1), 'other ' + name: TopicCount(name, 2)},
            topics={name: name, 'gone': name + '?'},
            instructions=(name,),
            losses={name: 1},
            problems=(Problem(name, name),),
            recorded=name,
            strip=(moment(dict.fromkeys(methods, '1' * 256), camera=name),),
        )
        for name in HOSTILE
    ]
    problems = tuple(BagProblem(name, name, name) for name in HOSTILE * 6)
    return result(
        bags,
        methods,
        problems=problems,
        command=SCRIPT,
        checkpoint=LONG,
        settings={'profile': RIGHT_TO_LEFT, LONG: LONG, SCRIPT: SCRIPT},
        machine={LONG: {SCRIPT: RIGHT_TO_LEFT}},
    )


def test_a_browser_shows_the_page(tmp_path):
    pytest.importorskip('matplotlib', reason='the plot extra is not installed')
    for seen in opened(replay_html(result()), tmp_path, (1280, 400)):
        assert seen['content'] <= seen['width']  # tables scroll by themselves, the page does not
        assert min(seen['fonts']) >= 12
        images = seen['images']
        assert len(images) == 5 + 2  # figures, and a thumbnail per method
        assert all(min(image['natural']) > 0 for image in images)
        assert all(image['drawn'] >= 300 for image in images[:5])
        assert all(image['drawn'] >= 150 for image in images[5:])
        assert seen['scripts'] == 0
        assert [h for h in seen['headings'] if h.startswith('Bag')] == ['Bag kitchen']


def test_a_browser_shows_hostile_names_as_text(hostile, tmp_path):
    pytest.importorskip('matplotlib', reason='the plot extra is not installed')
    for seen in opened(replay_html(hostile), tmp_path, (1280, 400)):
        assert seen['content'] <= seen['width']
        assert seen['scripts'] == 0
        assert all(min(image['natural']) > 0 for image in seen['images'])
        assert len(seen['images']) == len(HOSTILE) * (5 + len(hostile.rows))
        for name in HOSTILE:
            assert seen['text'].count(name) > 15, name
            assert f'Bag {name}' in seen['headings']
