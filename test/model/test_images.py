"""Image path against the stages that TensorFlow computed (``micro/observation.safetensors``)."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.model import images
from vla_prune_ros.model.images import normalized_pixels

CAMERAS = (('agentview', 'raw.agentview_image', 0), ('wrist', 'raw.robot0_eye_in_hand_image', 1))


@pytest.fixture(scope='module')
def golden(data_dir):
    return load_file(data_dir / 'micro' / 'observation.safetensors')


def upright(frame):
    return np.ascontiguousarray(frame[::-1, ::-1])


@pytest.mark.parametrize(('name', 'raw', 'index'), CAMERAS)
def test_every_stage_equals_tensorflow_bit_for_bit(golden, name, raw, index):
    jpeg = images.jpeg_round_trip(upright(golden[raw]))
    np.testing.assert_array_equal(jpeg, golden[f'stage.{name}.jpeg'])
    resized = images.lanczos_resize(jpeg)
    np.testing.assert_array_equal(resized, golden[f'stage.image{index}.resized224'])
    cropped = golden[f'stage.image{index}.cropped']
    np.testing.assert_array_equal(images.center_crop(resized), cropped)
    np.testing.assert_array_equal(images.prepare_image(upright(golden[raw])), cropped)
    np.testing.assert_array_equal(images.prepare_image(resized), cropped)  # 224: only cropped


def test_pixel_values_equal_the_processor(golden, data_dir):
    cropped = [golden['stage.image0.cropped'], golden['stage.image1.cropped']]
    want = load_file(data_dir / 'micro' / 'l1_fp32.safetensors')['pixel_values']
    got = images.pixel_values(cropped).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('inference', [True, False])
def test_pixels_of_a_device_are_those_of_the_host_to_the_last_bit(dtype, inference):
    """Every level in every channel, computed with numpy in float32."""
    every = np.arange(256, dtype=np.uint8).repeat(224 * 224 * 6 // 256).reshape(2, 224, 224, 3)
    x = every.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    tables = images.DINO_MEAN + images.SIGLIP_MEAN, images.DINO_STD + images.SIGLIP_STD
    mean, std = (np.array(table, np.float32)[:, None, None] for table in tables)
    want = torch.from_numpy((np.concatenate([x, x], axis=1) - mean) / std).to(dtype)
    with torch.inference_mode(inference):
        got = normalized_pixels(torch.from_numpy(every), dtype)
    assert torch.equal(got, want) and got.dtype == dtype


@pytest.mark.parametrize('size', [(480, 640), (256, 256), (100, 120)])
def test_resize_against_the_definition_in_float64(size):
    """Brute force: every output pixel is the normalised Lanczos-3 sum over all source pixels."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = images.lanczos_resize(frame)

    def weights(n, i):
        stretch = max(n / 224, 1.0)
        x = ((np.arange(n) + 0.5) - (i + 0.5) * n / 224) / stretch
        w = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
        return w / w.sum()

    for row, column in ((0, 0), (3, 200), (111, 97), (223, 223)):
        exact = np.einsum(
            'i,ijc,j->c', weights(size[0], row), frame.astype(float), weights(size[1], column)
        )
        np.testing.assert_allclose(out[row, column], np.clip(exact, 0, 255), atol=0.51)


def test_aloha_frames_bit_for_bit(data_dir):
    frames = load_file(data_dir / 'micro_aloha' / 'observation.safetensors')
    cameras = ('raw.cam_high', 0), ('pre256.cam_left_wrist', 1), ('pre256.cam_right_wrist', 2)
    for name, index in (('pre256.cam_high', 0), *cameras):
        got = images.prepare_image(frames[name], 256)
        np.testing.assert_array_equal(got, frames[f'stage.image{index}.cropped'])


@pytest.mark.parametrize(('name', 'raw', 'index'), CAMERAS)
def test_the_fast_path_is_within_one_level_on_average(golden, name, raw, index):
    fast = images.prepare_image(upright(golden[raw]), fast=True).astype(int)
    gap = np.abs(fast - golden[f'stage.image{index}.cropped'])
    assert 0 < gap.mean() < 1 and gap.max() <= 3


@pytest.mark.parametrize(
    'bad',
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[0]],
    ],
)
def test_anything_but_uint8_rgb_is_refused_by_name(bad):
    with pytest.raises(InputRefused, match="camera 'wrist'"):
        images.check_image(bad, 'wrist')
