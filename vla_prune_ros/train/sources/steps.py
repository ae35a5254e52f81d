"""Episodes laid end to end: which frames are samples, their chunks, and the gripper's numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...errors import DataError
from ...profiles import Profile

GRIPPERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'open_high': lambda values: values,
    'open_low': lambda values: 1.0 - values,
    'libero': lambda values: 1.0 - np.clip(values, 0.0, 1.0),
}
"""What a dataset's gripper commands are -> the policy's 0 closed .. 1 open.

``open_high``: the same already. ``open_low``: 1 closed .. 0 open. ``libero``: +1 closes, -1 (or 0)
opens, as robosuite takes it; clipped and inverted as ``libero_dataset_transform`` of openvla-oft
does.
"""


class Steps:
    """E episodes, N steps in all, and the samples among them.

    :param lengths: steps per episode, each at least 1.
    :param chunk: K, steps of a chunk.
    :param stride: frames from one step of a chunk to the next.
    :param whole_chunks: only frames that have K actions before the episode ends are samples, as in
        openvla-oft (``chunk_act_obs``). Otherwise every frame is one; what lies behind the end
        repeats the last action and is no label.
    """

    def __init__(
        self, lengths: Sequence[int], chunk: int, stride: int = 1, whole_chunks: bool = False
    ) -> None:
        sizes = np.asarray(lengths, np.int64)
        self._ahead = np.arange(chunk) * stride
        counts = np.maximum(sizes - self._ahead[-1], 0) if whole_chunks else sizes
        self._ends = np.cumsum(sizes)
        self._begins = self._ends - sizes
        self._samples = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._samples[-1]) if len(self._samples) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Place of a sample: number of the episode, and number among the N steps.

        :raises IndexError: there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        episode = int(np.searchsorted(self._samples, index, side='right'))
        before = int(self._samples[episode - 1]) if episode else 0
        return episode, int(self._begins[episode]) + index - before

    def chunk(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A sample's actions: int64 (K,) numbers among the N steps, bool (K,) which are labels."""
        episode, step = self.locate(index)
        rows = step + self._ahead
        last = self._ends[episode] - 1
        return np.minimum(rows, last), rows <= last


def gripper_columns(profile: Profile) -> list[int]:
    """Which numbers of an action are grippers, by their names in the profile."""
    return [i for i, name in enumerate(profile.action_names) if name.endswith('gripper')]


def require_finite(values: np.ndarray, what: str) -> None:
    """Refuse NaN and infinity.

    :param values: (T, ...) of one episode; ``what``: names it.
    :raises DataError: the message names the first frame.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        raise DataError(
            f'{what}, frame {int(bad[0])}: a number is not finite', 'leave this episode out'
        )
