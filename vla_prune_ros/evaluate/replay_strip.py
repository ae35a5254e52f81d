"""What the model saw at a few moments: a picture per method, pruned patches dimmed."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import cv2
import numpy as np

from ..runtime.overlay import draw_overlay
from .replay_markup import node, picture

_PREFIX = 'data:image/jpeg;base64,'
_QUALITY = 85


def strip_table(strip: Iterable[Mapping[str, Any]], heads: Mapping[str, Element]) -> Element:
    """A line per moment and camera, a picture per method.

    :param strip: of a bag of the result dict of ``vla-prune replay``.
    :param heads: method -> head of its column.
    """
    head = node('tr', node('th', 'moment', scope='col'))
    head.extend(heads.values())
    rows = [_line(moment, list(heads)) for moment in strip]
    table = node('table', node('thead', head), node('tbody', *rows), class_='strip')
    return node('div', table, class_='wide')


def overlay_uri(image: np.ndarray, kept: str) -> str:
    """The picture with pruned patches dimmed, as JPEG data URI.

    :param image: uint8 (S, S, 3) RGB, S a multiple of the patches of a side.
    :param kept: ``'1'`` for each patch that was kept, else ``'0'``, row-major.
    """
    mask = np.frombuffer(kept.encode('ascii'), np.uint8) == ord('1')
    drawn = draw_overlay(image, mask)
    quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    _, coded = cv2.imencode('.jpg', np.ascontiguousarray(drawn[..., ::-1]), quality)
    return _PREFIX + base64.b64encode(coded.tobytes()).decode('ascii')


def read_uri(uri: str | None) -> np.ndarray | None:
    """Picture of a JPEG data URI, uint8 (H, W, 3) RGB; None where it is none."""
    if not uri or not uri.startswith(_PREFIX):
        return None
    try:
        coded = base64.b64decode(uri[len(_PREFIX) :], validate=True)
    except (ValueError, binascii.Error):
        return None
    picture_bgr = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR) if coded else None
    return None if picture_bgr is None else np.ascontiguousarray(picture_bgr[..., ::-1])


def _line(moment: Mapping[str, Any], methods: Sequence[str]) -> Element:
    name = node('th', f'{moment["t_s"]:.2f} s', node('br'), moment['camera'], scope='row')
    image = read_uri(moment['image'])
    if image is None:
        lost = node('td', 'the picture could not be read', colspan=str(len(methods)))
        return node('tr', name, lost)
    return node('tr', name, *(node('td', _cell(moment, image, method)) for method in methods))


def _cell(moment: Mapping[str, Any], image: np.ndarray, method: str) -> Element:
    kept = (moment['kept'] or {}).get(method)
    if not kept:
        return node('p', 'no answer', class_='none')
    said = f'{kept.count("1")}/{len(kept)}'
    mode = (moment['mode'] or {}).get(method)
    said = f'{mode}, {said}' if mode else said
    where = f'{moment["camera"]} at {moment["t_s"]:.2f} s, {method}: {said} patches kept'
    return picture(overlay_uri(image, kept), where, said)
