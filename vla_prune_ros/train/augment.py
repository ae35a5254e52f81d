"""Crops and colours of OpenVLA's training, drawn anew for every look at a picture.

Source: ``finetune.py`` of OpenVLA (``image_augment_kwargs``): a random crop of 90 % of the area,
brightness 0.2, contrast and saturation 0.8 to 1.2, hue 0.05, in this order, on a picture of 224.
The operations are TensorFlow's definitions in float32 on OpenCV's colour conversion.
"""

import cv2
import numpy as np

from ..model.images import CROP_AREA, resized_image

BRIGHTNESS, HUE = 0.2, 0.05
CONTRAST = SATURATION = (0.8, 1.2)


def augmented(image: np.ndarray, pre_resize: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3) as a camera gives it -> uint8 (224, 224, 3), cropped and coloured.

    :param pre_resize: see :class:`~vla_prune_ros.profiles.Profile`.
    """
    return coloured(random_crop(resized_image(image, pre_resize), rng), rng)


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of 90 % of the area at a random place, stretched back. uint8 (S, S, 3) -> same."""
    size = len(image)
    side = size * CROP_AREA**0.5
    x, y = rng.uniform(0.0, size - side, 2)
    step = (side - 1) / (size - 1)
    matrix = np.array([[step, 0.0, x], [0.0, step, y]])
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def coloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another brightness, contrast, saturation and hue. uint8 (H, W, 3) -> same."""
    x = image.astype(np.float32) / 255.0
    x += np.float32(rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    mean = x.mean(axis=(0, 1))
    x = (x - mean) * np.float32(rng.uniform(*CONTRAST)) + mean
    hsv = cv2.cvtColor(np.clip(x, 0.0, 1.0), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*SATURATION), 0.0, 1.0)
    hsv[..., 0] = (hsv[..., 0] + 360.0 * rng.uniform(-HUE, HUE)) % 360.0
    out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(np.rint(255.0 * out), 0, 255).astype(np.uint8)
