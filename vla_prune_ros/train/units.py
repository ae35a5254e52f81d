"""Do the numbers of a data set have the units that a checkpoint was trained with?"""

import numpy as np

from ..errors import DataError
from ..model.statistics import Bounds, Statistics
from .sources.sample import Source

BEYOND = 1.0
"""So many ranges (q01 to q99, or min to max) outside of the limits a value is far off."""

MOST = 0.05
"""Share of far values in one dimension that is refused: q01 and q99 alone leave 2 % outside."""


def require_units(source: Source, name: str, statistics: Statistics) -> None:
    """Refuse data whose actions or states are far outside of what the checkpoint knows: degrees,
    millimetres, another gripper, another order of the joints.

    :param name: of the data, for the error.
    :raises DataError: a dimension is far off, or there are not as many as in the checkpoint.
    """
    actions, states = source.numbers()
    _require(actions, statistics.action, f'{name}: actions')
    if statistics.proprio is not None:
        if states is None:
            raise DataError(
                f'{name} has no states, and the checkpoint takes some', 'name the state feature'
            )
        _require(states, statistics.proprio, f'{name}: states')


def _require(values: np.ndarray, bounds: Bounds, what: str) -> None:
    if values.shape[1] != len(bounds.low):
        raise DataError(
            f'{what} have {values.shape[1]} numbers, the checkpoint {len(bounds.low)}',
            'choose the profile and the features that the checkpoint was trained with',
        )
    low = np.where(bounds.mask, bounds.low, 0.0)  # what is not scaled is 0 .. 1
    high = np.where(bounds.mask, bounds.high, 1.0)
    span = high - low
    far = (values < low - BEYOND * span - 1e-6) | (values > high + BEYOND * span + 1e-6)
    share = far.mean(axis=0)
    worst = int(share.argmax())
    if share[worst] > MOST:
        seen = np.quantile(values[:, worst], [0.01, 0.99])
        raise DataError(
            f'{what}: number {worst} runs from {seen[0]:.3g} to {seen[1]:.3g}, in the training of '
            f'the checkpoint from {low[worst]:.3g} to {high[worst]:.3g}',
            'bring the data into the units of the checkpoint, or start from one that was trained '
            'on such data',
        )
