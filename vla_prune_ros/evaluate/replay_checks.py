"""What must be right before a bag is opened: a long replay fails in its first seconds or not."""

from collections.abc import Iterable

from ..errors import ProfileError
from ..profiles import Profile
from ..runtime.bag_replay import Due
from .methods import Method
from .replay_setting import ReplaySetting


def check_replay(setting: ReplaySetting, methods: Iterable[Method]) -> None:
    """Check all that a replay depends on beside bags, device and dtype, which are the workers'.

    :raises ProfileError: profile, period, a parameter of the robot or a pruning knob is not
        usable.
    :raises CheckpointError: a checkpoint is broken, or its weights do not suit the method.
    :raises DataError: the topics file cannot be read.
    """
    profile, robot = setting.load_profile(), setting.robot
    if profile.action_kind != 'delta_pose':
        raise ProfileError(
            f'profile {profile.name!r} commands {profile.action_kind}',
            'vla_policy, and so a replay of it, is for end-effector deltas',
        )
    setting.check()
    Due(profile, robot.wiring(), setting.period_s)
    robot.motion()
    for method in methods:
        _check_method(method, profile)


def _check_method(method: Method, profile: Profile) -> None:
    """What :func:`~vla_prune_ros.load_policy` finds out before it reads the weights."""
    from ..engine.load import pruner_target
    from ..model.checkpoint import read_size
    from ..model.variant import find_variant
    from ..pruning.registry import build_pruner
    from ..pruning.trained import read_trained

    folder = method.folder
    size = read_size(folder, profile, find_variant(folder, profile))
    build_pruner(method.pruning, pruner_target(profile, size, read_trained(folder)))
