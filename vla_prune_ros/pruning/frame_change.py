"""Which patches of a camera's image changed since an earlier frame, and which frame that is.

Cosine similarity (SpecPrune-VLA, VLA-Cache) sees noise in the dark: images of mean m with noise s
are about 1 - s^2 / m^2 similar. The mean absolute difference of pooled pixels has a noise floor of
0.8 * s / sqrt(2) in any scene. Sums are of whole or quarter numbers and exact: devices agree.
"""

import math
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputRefused, ProfileError
from ..records import MotionHint
from .base import Query
from .layout import Layout, Target
from .modes import linear_units, look_back_clamped, look_back_legacy, look_back_paper
from .selection import best_first

PATCH = 14  # side of a patch in pixels, of both vision towers
POOL = 2
THRESHOLDS = {'cosine': (1e-6, 1.0), 'difference': (0.0, 255.0)}  # metric -> lowest and highest
METRICS = tuple(THRESHOLDS)


@dataclass(frozen=True)
class ChangeSettings:
    metric: str
    threshold: tuple[float, ...]  # per camera, the last serves further cameras
    noise_levels: float = 0.0  # grey levels that a changed patch has to exceed too; 0: off
    half_resolution: bool = False  # 2 x 2 pixels are averaged already; for 'difference'


# Five levels: noise of standard deviation 6 per pixel stays below, and so does a lamp that
# flickers by 2 % on a white table; a change of 25 levels in a quarter of a patch is above.
RECOMMENDED = ChangeSettings('difference', (5.0,))
# Frames at half the resolution take a twentieth of the time to prepare.
RECOMMENDED_HALF = replace(RECOMMENDED, half_resolution=True)
# For lighting that changes as a whole. The noise floor frees the threshold from noise, and it must
# be this strict: 25 levels of colour on a white table leave a similarity of more than 0.99.
RECOMMENDED_COSINE = ChangeSettings('cosine', (0.999,), 5.0)
# The released code of SpecPrune-VLA of 2026, primary and wrist, to the letter.
AUTHORS_2026 = ChangeSettings('cosine', (0.986, 0.98))
# The paper names no number; this is the released code's of 2025, of both cameras.
PAPER_V3 = ChangeSettings('cosine', (0.986,))


@dataclass(frozen=True, eq=False)
class Change:
    amount: Tensor  # float32 (patches,)
    changed: Tensor  # bool (patches,)


def to_device(image: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.tensor(np.ascontiguousarray(image), device=device)


def patch_side(image: Tensor, layout: Layout) -> int:
    grid = isqrt(layout.patches)
    if grid * grid != layout.patches or any(side % grid for side in image.shape[:2]):
        raise ProfileError(
            f'{layout.patches} patches are no square grid of {tuple(image.shape[:2])} pixels',
            'prune by another method, or use a model whose patches tile the image in a square',
        )
    return image.shape[0] // grid


def patch_pixels(image: Tensor, side: int = PATCH) -> Tensor:
    """uint8 (H, W, 3) -> float32 (H/side * W/side, side*side*3), patches and pixels row-major."""
    shape = tuple(image.shape)
    good = image.dtype == torch.uint8 and len(shape) == 3 and shape[2] == 3
    if not good or shape[0] % side or shape[1] % side:
        raise InputRefused(
            'image',
            f'image to compare is {image.dtype} {shape}',
            f'pass uint8 (H, W, 3) with sides that are multiples of {side}',
        )
    grid = image.reshape(shape[0] // side, side, shape[1] // side, side, 3)
    return grid.transpose(1, 2).reshape(-1, side * side * 3).float()


def cosine_similarity(current: Tensor, reference: Tensor, side: int = PATCH) -> Tensor:
    """a . b / (|a| |b| + 1e-8) of each pair of patches, raw RGB: float32 (patches,); equal frames
    are exactly 1, and as in SpecPrune-VLA's code a black patch is 0 similar to any."""
    a, b = (p.double() for p in _both(current, reference, side))
    norms = a.square().sum(dim=1).sqrt() * b.square().sum(dim=1).sqrt()
    return ((a * b).sum(dim=1) / (norms + 1e-8)).float()


def difference(current: Tensor, reference: Tensor, side: int = PATCH, pool: int = POOL) -> Tensor:
    """Mean absolute difference of each pair of patches in grey levels: float32 (patches,). Of
    means over ``pool`` x ``pool`` pixels, and per channel, since objects may differ in colour."""
    a, b = _both(current, reference, side)
    pixels = (a - b).view(-1, side, side, 3).permute(0, 3, 1, 2)
    return F.avg_pool2d(pixels, pool, ceil_mode=True).abs().mean(dim=(1, 2, 3))


def compare(
    current: Tensor,
    reference: Tensor,
    settings: ChangeSettings,
    camera_index: int = 0,
    side: int = PATCH,
) -> Change:
    """How much each patch, of ``side`` pixels in full resolution, changed (1 - similarity or grey
    levels). Below the noise floor 1 - similarity is 0: no dark patch outranks one that changed."""
    threshold = settings.threshold[min(camera_index, len(settings.threshold) - 1)]
    floor = settings.noise_levels
    if settings.metric == 'difference':
        cell = (side // POOL, 1) if settings.half_resolution else (side, POOL)
        amount = difference(current, reference, *cell)
        return Change(amount, amount > max(threshold, floor))
    similarity = cosine_similarity(current, reference, side)
    amount, changed = 1 - similarity, similarity < threshold
    if floor:
        seen = difference(current, reference, side) > floor
        amount, changed = amount * seen, changed & seen
    return Change(amount, changed)


def least_changed(similarity: Tensor, count: int, threshold: float) -> Tensor:
    """The ``count`` most similar of the patches that are at least ``threshold`` similar: ids,
    ascending. Ties go to the lower id. As in the released code of SpecPrune-VLA."""
    alike = int((similarity >= threshold).sum())
    return best_first(similarity)[: min(count, alike)].sort().values


def most_changed(change: Change, count: int) -> Tensor:
    """V_dynamic of SpecPrune-VLA: int64 (<= count,), best first; ties go to the lower id."""
    amount = change.amount.masked_fill(~change.changed, -math.inf)
    return best_first(amount)[: min(count, int(change.changed.sum()))]


def _both(current: Tensor, reference: Tensor, side: int) -> tuple[Tensor, Tensor]:
    if current.shape != reference.shape:
        raise InputRefused(
            'image',
            f'frames to compare are {tuple(current.shape)} and {tuple(reference.shape)}',
            'compare frames of one camera, prepared alike',
        )
    return patch_pixels(current, side), patch_pixels(reference, side)


LONGEST_STEPS = {'paper': 11, 'released': 6, 'clamped': 6}


class ReferenceFrame:
    """Compares with the frame T - 1 steps back. ``'paper'`` and ``'released'`` count the robot's
    control steps and action units, ``'clamped'`` LIBERO's on any robot: the same motion in m/s
    gives the same age, at most 0.25 s."""

    def __init__(self, change: ChangeSettings, rule: str, target: Target) -> None:
        self._change, self._rule = change, rule
        self._units = Target() if rule == 'clamped' else target
        self._chunk_s = target.chunk * target.control_period_s

    @property
    def longest_s(self) -> float:
        return LONGEST_STEPS[self._rule] * self._units.control_period_s

    def available(self, query: Query) -> bool:
        history = query.history
        return history is not None and all(
            history.has_earlier(c, query.stamp_ns) for c in query.layout.cameras
        )

    def changes(
        self, query: Query, motion: MotionHint | None, since_s: float, device: torch.device
    ) -> tuple[list[Change], int]:
        """Per camera what changed, and T; ``motion`` None where unknown; ``since_s`` since the
        last query, a complete chunk where it is not above 0."""
        steps = self._steps(motion, since_s)
        changes = []
        for index, camera in enumerate(query.layout.cameras):
            now = self._present(query, camera, device)
            then = self._frame(query, camera, steps)
            if then is None and self._rule != 'released':  # everything counts as changed
                ones = torch.ones(query.layout.patches, device=device)
                changes.append(Change(ones, ones.bool()))
                continue
            before = now if then is None else to_device(then, device)
            side = patch_side(now, query.layout) * (2 if self._change.half_resolution else 1)
            changes.append(compare(now, before, self._change, index, side))
        return changes, steps

    def _steps(self, motion: MotionHint | None, since_s: float) -> int:
        if motion is None:
            return LONGEST_STEPS[self._rule]
        units = linear_units(motion.linear_m_s, self._units)  # per control step
        if self._rule == 'paper':
            return look_back_paper(units)
        since_s = since_s if since_s > 0 else self._chunk_s
        moved = units * since_s / self._units.control_period_s
        return look_back_legacy(moved) if self._rule == 'released' else look_back_clamped(moved)

    def _present(self, query: Query, camera: str, device: torch.device) -> Tensor:
        if query.frames is not None:
            return to_device(query.frames[camera], device)
        image = query.model_images[camera]
        if self._change.half_resolution:
            high, wide = image.shape[0] // 2, image.shape[1] // 2
            cells = image[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, 3)
            image = np.rint(cells.mean(axis=(1, 3))).astype(np.uint8)
        return to_device(image, device)

    def _frame(self, query: Query, camera: str, steps: int) -> np.ndarray | None:
        history = query.history
        if history is None:
            return None
        if self._rule == 'released':
            if steps <= 0:  # a negative index of the released code's list: frames 0, 1, ...
                return history.first(camera, -steps)
            if steps == 1 or history.count(camera) < steps:
                return None
        back_s = (steps - 1) * self._units.control_period_s
        return history.before(camera, query.stamp_ns, round(1e9 * back_s))
