"""Episodes come back from disk as they were; pictures keep their colours pixel by pixel.

Pictures are decoded with Pillow, which is not what the package decodes with.
"""

import io
from dataclasses import fields

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vla_prune_ros.train import dataset as demonstrations
from vla_prune_ros.train.dataset import compress, load, save


@pytest.mark.parametrize('frames', [1, 5])
def test_an_episode_comes_back_as_it_was(tmp_path, episode, frames):
    before = episode('stack_red_on_green', frames, seed=3)
    save(before, tmp_path / 'new' / '1000002.npz')
    after = load(tmp_path / 'new' / '1000002.npz')
    assert len(after) == frames and len(after.views) == 2 * frames
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, np.ndarray):
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(new, old)  # NaN equals NaN here
        else:
            assert type(new) is type(old) and new == old


def test_nothing_but_the_episode_is_left_in_the_folder(tmp_path, episode):
    for seed in (4, 5):
        save(episode(seed=seed), tmp_path / '4.npz')
    assert [p.name for p in tmp_path.iterdir()] == ['4.npz']
    np.testing.assert_array_equal(load(tmp_path / '4.npz').state, episode(seed=5).state)


def test_a_write_that_breaks_off_leaves_no_episode(tmp_path, episode, monkeypatch):
    def full(file, **arrays):
        file.write(b'half of it')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(demonstrations.np, 'savez', full)
    with pytest.raises(OSError, match='No space'):
        save(episode(), tmp_path / '1.npz')
    assert list(tmp_path.glob('*.npz')) == []


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


def test_a_picture_loses_a_few_grey_levels():
    ramp = np.linspace(0, 255, 224)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), -1).astype(np.uint8)
    error = np.abs(decoded(compress(picture)) - picture)
    assert error.mean() < 2 and error.max() < 12


def test_colour_is_kept_at_full_resolution():
    """Columns in turn red and green: with halved chroma all of them would turn olive."""
    picture = np.zeros((224, 224, 3), np.uint8)
    picture[:, ::2, 0] = picture[:, 1::2, 1] = 200
    data = compress(picture)
    assert simplejpeg.decode_jpeg_header(data)[3] == '444'
    assert np.abs(decoded(data) - picture).mean() < 6


def test_a_turned_view_is_stored_as_it_looks():
    """``[::-1, ::-1]`` gives arrays with negative strides."""
    picture = np.zeros((224, 224, 3), np.uint8)
    picture[:112, :112] = (250, 30, 30)
    got = decoded(compress(picture[::-1, ::-1]))
    assert got[168, 168, 0] > 230 and got[56, 56, 0] < 20
