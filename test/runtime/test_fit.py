"""What does not fit a profile is named, and what would fit."""

import pytest

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.profiles import LIBERO, validate_profile


@pytest.mark.parametrize('names', [(), ('wrist',), ('primary', 'wrist')])
def test_what_fits_passes(names):
    validate_profile(LIBERO, names, (0.0, 0.1, -0.2))


@pytest.mark.parametrize(
    ('names', 'offset', 'words'),
    [
        (('wirst',), (0.0,) * 3, r"rotate_180 names camera 'wirst'.*'primary', 'wrist'"),
        (('top', 'primary', 'left'), (0.0,) * 3, "names camera 'left', 'top'"),
        ((), (0.0,) * 2, 'pose_offset_m has 2 numbers.*x, y and z'),
        ((), (), 'pose_offset_m has 0 numbers'),
    ],
)
def test_what_does_not_is_refused(names, offset, words):
    with pytest.raises(ProfileError, match=words):
        validate_profile(LIBERO, names, offset)
