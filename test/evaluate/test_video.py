"""Videos: what was written is read back with OpenCV."""

import cv2
import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.video import VideoWriter

RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(color):
    return np.full((64, 64, 3), color, np.uint8)


def read(path):
    reader, frames = cv2.VideoCapture(str(path)), []
    while (frame := reader.read())[0]:
        frames.append(frame[1][..., ::-1])
    rate = reader.get(cv2.CAP_PROP_FPS)
    reader.release()
    return frames, rate


def test_cameras_stand_side_by_side_in_their_colours(tmp_path):
    with VideoWriter(tmp_path / 'new' / 'video.mp4', fps=5.0) as video:
        for _ in range(6):
            video.add([plain(RED), plain(BLUE)])
        assert video.frames == 6
    frames, rate = read(video.path)
    assert len(frames) == 6 and frames[0].shape == (64, 128, 3) and rate == pytest.approx(5.0)
    left, right = frames[3][:, 8:56].mean((0, 1)), frames[3][:, 72:120].mean((0, 1))
    np.testing.assert_allclose(left, RED, atol=30)
    np.testing.assert_allclose(right, BLUE, atol=30)


def test_a_file_is_finished_in_spite_of_an_error_and_made_with_the_first_frame(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / 'video.mp4', fps=5.0) as video,
    ):
        assert video.frames == 0 and not video.path.exists()
        video.add([plain(RED)])
        raise KeyboardInterrupt
    assert len(read(video.path)[0]) == 1
    video.close()  # twice is no error


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'folder.mp4').mkdir()
    video = VideoWriter(tmp_path / 'folder.mp4', fps=5.0)
    with pytest.raises(VlaPruneError, match='folder.mp4 cannot be written; check the folder'):
        video.add([plain(RED)])
