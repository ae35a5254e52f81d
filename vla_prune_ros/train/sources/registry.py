"""Sources by the name of their format."""

from importlib import import_module

from ...errors import DataError
from ...model.statistics import Statistics
from ...profiles import Profile
from ..settings import Data
from .sample import Source

FORMATS = {
    'two_cubes': 'two_cubes.TwoCubes',
    'libero_hdf5': 'libero_hdf5.LiberoHdf5',
    'lerobot': 'lerobot.LeRobot',
    'rosbag': 'rosbag.Rosbag',
}


def open_source(data: Data, profile: Profile, statistics: Statistics | None = None) -> Source:
    """The source that ``data`` describes.

    :param statistics: of the checkpoint; says which branch of the rotation vector a pose of a bag
        belongs to, unless the options do.
    :raises DataError: it cannot be read, holds nothing, or an option is not its own.
    """
    module, name = FORMATS[data.format].split('.')
    make = getattr(import_module(f'.{module}', __package__), name)
    options = dict(data.options)
    if data.format == 'rosbag' and statistics is not None and statistics.proprio is not None:
        options.setdefault('rotation_reference', statistics.proprio.mean[3:6])
    try:
        source = make(data.path, profile, **options)
    except TypeError as error:
        raise DataError(f'{data.format} {data.path}: {error}', 'see docs/training.md') from None
    if not len(source):
        raise DataError(f'{data.path} holds no samples', 'check the path and its format')
    return source
