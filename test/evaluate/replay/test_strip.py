"""Pictures of the strip, decoded again: on a flat grey one a kept patch keeps its grey and a
pruned one has a quarter of it, as :mod:`vla_prune_ros.runtime.overlay` says."""

import base64
from xml.etree.ElementTree import tostring

import cv2
import numpy as np
import pytest
from replay_result import GREY, moment, picture_uri

from vla_prune_ros.evaluate.replay.report import node, overlay_uri, read_uri, strip_table

LOSS = 10  # of JPEG, in the middle of a patch


def decoded(uri):
    head, _, body = uri.partition('base64,')
    assert head == 'data:image/jpeg;'
    coded = np.frombuffer(base64.b64decode(body), np.uint8)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


def table_of(strip, methods):
    return strip_table(strip, {m: node('th', m) for m in methods})


def test_pruned_patches_are_darker_and_kept_ones_are_not():
    random = np.random.default_rng(3)
    kept = random.random(256) < 0.4
    characters = ''.join('01'[int(k)] for k in kept)
    table = table_of([moment({'specprune': characters})], ['specprune'])
    picture = decoded(next(table.iter('img')).get('src'))
    assert picture.shape == (224, 224, 3)
    for patch in range(256):
        row, column = divmod(patch, 16)
        inside = picture[14 * row + 4 : 14 * row + 10, 14 * column + 4 : 14 * column + 10]
        grey = GREY if kept[patch] else GREY / 4
        assert abs(inside.astype(float) - grey).max() < LOSS, patch


def test_colours_stay_in_their_channels():
    image = np.zeros((224, 224, 3), np.uint8)
    image[...] = (220, 60, 20)
    seen = decoded(overlay_uri(read_uri(picture_uri(image)), '1' * 256))
    assert abs(seen.astype(float) - image).max() < LOSS


def test_a_line_per_moment_and_a_picture_per_method():
    kept = {'dense': '1' * 256, 'specprune': '1' * 99 + '0' * 157}
    strip = [moment(kept), moment(kept, camera='wrist', t_s=12.3456)]
    strip[1]['mode'] = {'dense': 'dense', 'specprune': 'coarse'}
    table = table_of(strip, ['dense', 'specprune'])
    lines = [[''.join(cell.itertext()) for cell in line] for line in table.iter('tr')]
    assert lines == [
        ['moment', 'dense', 'specprune'],
        ['1.50 sfront', 'fine, 256/256', 'fine, 99/256'],
        ['12.35 swrist', 'dense, 256/256', 'coarse, 99/256'],
    ]
    texts = [image.get('alt') for image in table.iter('img')]
    assert texts[3] == 'wrist at 12.35 s, specprune: coarse, 99/256 patches kept'


def test_a_method_that_gave_no_answer_has_no_picture():
    table = table_of([moment({'dense': '1' * 256})], ['dense', 'specprune'])
    assert len(list(table.iter('img'))) == 1
    assert 'no answer' in tostring(table, encoding='unicode')


@pytest.mark.parametrize(
    'image', [None, '', 'picture.jpg', 'data:image/jpeg;base64,', 'data:image/jpeg;base64,%%%',
              'data:image/jpeg;base64,AAAA']
)  # fmt: skip
def test_a_picture_that_cannot_be_read_is_said_to_be(image):
    table = table_of([moment({'dense': '1' * 256}, image=image)], ['dense'])
    assert not list(table.iter('img'))
    assert 'could not be read' in tostring(table, encoding='unicode')
