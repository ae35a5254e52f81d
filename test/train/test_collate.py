"""Batches from sources: numbers, prompts, order.

Expected: hand-made samples whose normalised values are easy, and the order's own promise: a step
draws the same whoever asks and whenever.
"""

import numpy as np
import pytest
import torch

from vla_prune_ros.model.images import pixel_values, prepare_image
from vla_prune_ros.model.normalization import Bounds, Statistics
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.train.collate import StepBatches, TrainingData, loader
from vla_prune_ros.train.sources.base import Sample

WORDS = ('pick up the red cube', 'pick up the green cube', 'put the red cube on the green cube')


class Made:
    """Samples of one shade each; ``first`` is the number of the first."""

    def __init__(self, count, first=0, prepared=True):
        self._count, self._first, self._prepared = count, first, prepared

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        number, side = self._first + index, 224 if self._prepared else 64
        return Sample(
            images={c: shade(10 * number + i, side) for i, c in enumerate(LIBERO.cameras)},
            state=np.full(8, 1.0 * number),
            instruction=self.instruction(index),
            chunk=np.full((8, 7), 0.1 * number),
            valid=np.arange(8) <= number,
            prepared=self._prepared,
        )

    def instruction(self, index):
        return WORDS[(self._first + index) % 3]


def shade(value, side=224):
    return np.full((side, side, 3), value, np.uint8)


@pytest.fixture
def make(tokenizer):
    def make(sources, augment=False, state=True):
        mask = np.array([True] * 6 + [False])
        action = Bounds(np.full(7, -1.0), np.full(7, 3.0), mask, np.zeros(7))
        full = np.ones(8, bool)
        proprio = Bounds(np.zeros(8), np.full(8, 10.0), full, np.zeros(8)) if state else None
        return TrainingData(
            sources, LIBERO, Statistics('a', action, proprio), tokenizer, augment=augment
        )

    return make


def test_a_sample_of_the_second_source(make, tokenizer):
    data = make([Made(2), Made(3, first=2)])
    assert len(data) == 5
    item = data[3, 0]
    # -1 .. 3 to -1 .. 1: 0.3 -> -0.35; the gripper is left as it is. 0 .. 10: 3 -> -0.4.
    assert item.actions[0].tolist() == pytest.approx([-0.35] * 6 + [0.3], abs=1e-6)
    assert item.state.tolist() == pytest.approx([-0.4] * 8, abs=1e-6)
    assert item.weights.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert torch.equal(item.pixels, pixel_values([shade(30), shade(31)]))
    text = 'In: What action should the robot take to pick up the red cube?\nOut:'
    assert item.prompts.tolist() == tokenizer(text)
    assert make([Made(1)], state=False)[0, 0].state.shape == (0,)


def test_raw_images_are_prepared_as_for_a_query_or_augmented_by_the_seed(make):
    sources = [Made(1, first=7, prepared=False), Made(1, first=8)]
    views = [prepare_image(shade(value, 64)) for value in (70, 71)]
    assert torch.equal(make(sources)[0, 0].pixels, pixel_values(views))
    data = make(sources, augment=True)
    assert torch.equal(data[0, 5].pixels, data[0, 5].pixels)
    assert not torch.equal(data[0, 5].pixels, data[0, 6].pixels)
    assert torch.equal(data[1, 5].pixels, data[1, 6].pixels)


def test_a_batch_has_one_prompt_length_and_every_sample_comes_up(make):
    data = make([Made(9)])
    lengths = data.prompt_lengths()
    assert len(set(lengths.tolist())) == 2
    order = list(StepBatches(lengths, batch=4, steps=(0, 2000), seed=3))
    assert all(len({lengths[i] for i, _ in batch}) == 1 for batch in order)
    drawn = np.bincount([i for batch in order for i, _ in batch], minlength=9)
    assert (np.abs(drawn / drawn.sum() - 1 / 9) < 0.04).all()


def test_a_resumed_order_goes_on_where_it_was():
    lengths = np.array([5, 5, 6, 7, 7, 7])
    whole = list(StepBatches(lengths, batch=3, steps=(0, 10), seed=1))
    assert list(StepBatches(lengths, batch=3, steps=(6, 10), seed=1)) == whole[6:]
    other = list(StepBatches(lengths, batch=3, steps=(0, 10), seed=1, rank=1))
    assert other != whole
    # Processes work on prompts of one length together, so that none waits for another.
    same = [lengths[a[0][0]] == lengths[b[0][0]] for a, b in zip(whole, other, strict=True)]
    assert all(same)


def test_batches_are_stacked_and_cut(make):
    data = make([Made(9)])
    order = StepBatches(data.prompt_lengths(), batch=4, steps=(0, 2), seed=0)
    for batch, keys in zip(loader(data, order, 0), order, strict=True):
        assert batch.pixels.shape == (4, 2, 6, 224, 224) and batch.actions.shape == (4, 8, 7)
        again = [torch.stack(t) for t in zip(*(data[key] for key in keys), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
        parts = batch.parts(3)
        assert [len(part.state) for part in parts] == [2, 2]
        assert torch.equal(torch.cat([part.state for part in parts]), batch.state)
