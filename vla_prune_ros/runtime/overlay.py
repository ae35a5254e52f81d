"""Pictures of what the model saw: kept patches clear, pruned ones dimmed."""

from collections.abc import Sequence

import cv2
import numpy as np

_DIM = 0.25
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overlay(image: np.ndarray, kept: np.ndarray, lines: Sequence[str] = ()) -> np.ndarray:
    """Dim the patches that were pruned and write lines of text on top.

    :param image: uint8 (S, S, 3) RGB, what the towers saw.
    :param kept: bool (n * n,), row-major over the n x n patches.
    :param lines: text, one line each, from the top.
    :return: uint8 (S, S, 3) RGB.
    """
    side = int(round(len(kept) ** 0.5))
    mask = np.kron(kept.reshape(side, side), np.ones((len(image) // side,) * 2, bool))
    out = np.where(mask[..., None], image, (image * _DIM).astype(np.uint8))
    if lines:
        out[: 6 + 14 * len(lines)] //= 3  # a dark strip: readable on any picture
    for i, line in enumerate(lines):
        at = 4, 14 + 14 * i
        cv2.putText(out, line, at, _FONT, fontScale=0.4, color=(255,) * 3, lineType=cv2.LINE_AA)
    return out
