"""Token-pruned OpenVLA-OFT for ROS 2: camera frames in, timed and checked action chunks out.
``load_policy`` is imported on first use, so that processes which never run the model do not load
torch."""

from typing import TYPE_CHECKING, Any

from .records import ActionChunk, Inference, MotionHint, Observation

if TYPE_CHECKING:
    from .engine.load import load_policy
    from .engine.policy import Policy

__version__ = '0.1.0'
__all__ = [
    'ActionChunk',
    'Inference',
    'MotionHint',
    'Observation',
    'Policy',
    'load_policy',
    '__version__',
]


def __getattr__(name: str) -> Any:
    if name in ('load_policy', 'Policy'):
        from .engine import load

        return getattr(load, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
