"""Whether what a user says of his cameras and his arm's pose fits the profile of the policy."""

from collections.abc import Sequence

from ..errors import ProfileError
from ..profiles import Profile


def check_fit(profile: Profile, rotate_180: Sequence[str], pose_offset_m: Sequence[float]) -> None:
    """Parameters of the same names, of the node and of a replay.

    :raises ProfileError: a camera that the profile does not have, or no three numbers.
    """
    unknown = sorted(set(rotate_180) - set(profile.cameras))
    if unknown:
        raise ProfileError(
            f'rotate_180 names camera {", ".join(map(repr, unknown))}',
            f'use names of {list(profile.cameras)}',
        )
    if len(pose_offset_m) != 3:
        raise ProfileError(
            f'pose_offset_m has {len(pose_offset_m)} numbers', 'give x, y and z in m'
        )
