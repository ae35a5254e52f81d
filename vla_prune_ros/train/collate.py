"""Samples of any source as batches of one prompt length, augmented, the same after a resume."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from ..model.images import CROP_AREA, pixel_values, prepare_image, resized_image
from ..model.normalization import Bounds, Statistics, normalize
from ..model.prompt import PromptTokenizer, build_prompt
from ..profiles import Profile
from .sources.base import Sample, Source


class TrainingBatch(NamedTuple):
    """B samples whose prompts have one length; without the first axis, one sample."""

    pixels: Tensor  # float32 (B, C, 6, 224, 224)
    prompts: Tensor  # int64 (B, P)
    state: Tensor  # float32 (B, S), normalised; (B, 0) without a state
    actions: Tensor  # float32 (B, K, D), normalised
    weights: Tensor  # float32 (B, K), 0 where a step is no label

    def to(self, device: torch.device) -> 'TrainingBatch':
        return TrainingBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def parts(self, count: int) -> list['TrainingBatch']:
        pieces = [torch.chunk(tensor, count) for tensor in self]
        return [TrainingBatch(*piece) for piece in zip(*pieces, strict=True)]


class TrainingData(Dataset):
    """Several sources, as the tensors of one sample each.

    :param augment: draw crops and colours anew each time, except of prepared images.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        profile: Profile,
        statistics: Statistics,
        tokenizer: PromptTokenizer,
        *,
        augment: bool,
    ) -> None:
        self._sources = list(sources)
        self._samples: ConcatDataset[Sample] = ConcatDataset(self._sources)
        self._profile, self._statistics = profile, statistics
        self._tokenizer, self._augment = tokenizer, augment
        self._prompts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> TrainingBatch:
        """The sample with number ``key[0]``, augmented by the seed ``key[1]``."""
        index, seed = key
        sample = self._samples[index]
        return TrainingBatch(
            pixels=pixel_values(self._images(sample, seed)),
            prompts=self._prompt(sample.instruction),
            state=_scaled(sample.state, self._statistics.proprio),
            actions=_scaled(sample.chunk, self._statistics.action),
            weights=torch.from_numpy(np.asarray(sample.valid, np.float32)),
        )

    def prompt_lengths(self) -> np.ndarray:
        every = ((source, i) for source in self._sources for i in range(len(source)))
        return np.array([len(self._prompt(source.instruction(i))) for source, i in every])

    def _images(self, sample: Sample, seed: int) -> list[np.ndarray]:
        views = [sample.images[camera] for camera in self._profile.cameras]
        if sample.prepared:
            return views
        if not self._augment:
            return [prepare_image(view, self._profile.pre_resize) for view in views]
        rng = np.random.default_rng(seed)
        return [augmented(view, self._profile.pre_resize, rng) for view in views]

    def _prompt(self, instruction: str) -> Tensor:
        if instruction not in self._prompts:
            ids = self._tokenizer(build_prompt(instruction))
            self._prompts[instruction] = torch.tensor(ids)
        return self._prompts[instruction]


def _scaled(values: np.ndarray | None, bounds: Bounds | None) -> Tensor:
    if bounds is None:
        return torch.zeros(0)
    return torch.from_numpy(normalize(values, bounds.low, bounds.high, bounds.mask)).float()


class StepBatches(Sampler):
    """The samples of each step from ``steps[0]`` to before ``steps[1]``, drawn from the step's
    number alone. A batch has prompts of one length; lengths come up as often as their samples do.

    :param lengths: (N,), ids of each sample's prompt.
    :param rank: which of several processes; each draws others.
    """

    def __init__(
        self, lengths: np.ndarray, *, batch: int, steps: tuple[int, int], seed: int, rank: int = 0
    ) -> None:
        self._groups = [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
        self._ratios = np.array([len(group) for group in self._groups]) / len(lengths)
        self._batch, self._steps, self._seed, self._rank = batch, steps, seed, rank

    def __len__(self) -> int:
        return self._steps[1] - self._steps[0]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(*self._steps):
            # A zero behind a seed changes nothing in NumPy: the two must differ in more than that.
            common = np.random.default_rng((self._seed, step, 0))
            rng = np.random.default_rng((self._seed, step, 1 + self._rank))
            group = common.choice(len(self._groups), p=self._ratios)
            indices = rng.choice(self._groups[group], self._batch)
            seeds = rng.integers(2**31, size=self._batch)
            yield list(zip(indices.tolist(), seeds.tolist(), strict=True))


def loader(data: TrainingData, order: StepBatches, workers: int) -> DataLoader:
    return DataLoader(
        data,
        batch_sampler=order,
        num_workers=workers,
        multiprocessing_context='spawn' if workers else None,
    )


# --- augmentation --------------------------------------------------------------------------------
# ``finetune.py`` of OpenVLA (``image_augment_kwargs``): a random crop of 90 % of the area,
# brightness 0.2, contrast and saturation 0.8 to 1.2, hue 0.05, in this order, on an image of 224.
# The operations are TensorFlow's definitions in float32 on OpenCV's colour conversion.

BRIGHTNESS, HUE = 0.2, 0.05
CONTRAST = SATURATION = (0.8, 1.2)


def augmented(image: np.ndarray, pre_resize: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3) as a camera gives it -> uint8 (224, 224, 3), cropped and coloured."""
    return coloured(random_crop(resized_image(image, pre_resize), rng), rng)


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of 90 % of the area at a random place, stretched back. uint8 (S, S, 3) -> same."""
    size = len(image)
    side = size * CROP_AREA**0.5
    x, y = rng.uniform(0.0, size - side, 2)
    step = (side - 1) / (size - 1)
    matrix = np.array([[step, 0.0, x], [0.0, step, y]])
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size, size), flags=linear)


def coloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = image.astype(np.float32) / 255.0
    x += np.float32(rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    mean = x.mean(axis=(0, 1))
    x = (x - mean) * np.float32(rng.uniform(*CONTRAST)) + mean
    hsv = cv2.cvtColor(np.clip(x, 0.0, 1.0), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*SATURATION), 0.0, 1.0)
    hsv[..., 0] = (hsv[..., 0] + 360.0 * rng.uniform(-HUE, HUE)) % 360.0
    out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(np.rint(255.0 * out), 0, 255).astype(np.uint8)
