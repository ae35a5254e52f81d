"""What training takes from a recording: one labelled frame at a time, from sources by format."""

import importlib
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ...errors import DataError, VlaPruneError
from ...model.normalization import Bounds, Statistics
from ...profiles import Profile
from ..config import Data

T = TypeVar('T')


def library(module: str, remedy: str = "pip install 'vla_prune_ros[train]'") -> Any:
    """:raises VlaPruneError: the module is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VlaPruneError(f'{module} cannot be imported ({error})', remedy) from None


def unreadable(what: Any, error: Exception) -> DataError:
    first_line = f'{type(error).__name__}: {error}'.splitlines()[0]
    return DataError(f'{what} cannot be read ({first_line})', 'fetch it again')


# --- samples -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One labelled frame.

    :param images: camera of the profile -> uint8 (H, W, 3) RGB; 224 x 224 where ``prepared``.
    :param state: float64 (P,), un-normalised, in the checkpoint's units; None without one.
    :param chunk: float64 (K, D), the demonstrator's actions from this frame on, un-normalised, in
        the units and conventions that the policy predicts (gripper 0 closed .. 1 open).
    :param valid: bool (K,), False where a step of the chunk is no label.
    :param prepared: the images are what the towers see already: not cropped or resized again.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray | None
    instruction: str
    chunk: np.ndarray
    valid: np.ndarray
    prepared: bool = False


class Source(Protocol):
    """Samples by number. Read by one process at a time; every process opens its own files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """:raises IndexError: no such sample. :raises DataError: its images are unreadable."""

    def instruction(self, index: int) -> str:
        """The task, without decoding images."""

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions float64 (N, D) and states float64 (N, P), for statistics."""


class Steps:
    """E episodes laid end to end, N steps in all, and the samples among them.

    :param stride: frames from one step of a chunk to the next.
    :param whole_chunks: only frames with a whole chunk ahead are samples, as in openvla-oft
        (``chunk_act_obs``). Otherwise every frame is; behind the end the last action is repeated.
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

    def locate(self, index: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        """Number of the episode, number among the N steps; and the chunk: int64 (K,) numbers among
        the N steps, bool (K,) which are labels."""
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        episode = int(np.searchsorted(self._samples, index, side='right'))
        before = int(self._samples[episode - 1]) if episode else 0
        step = int(self._begins[episode]) + index - before
        rows, last = step + self._ahead, self._ends[episode] - 1
        return episode, step, np.minimum(rows, last), rows <= last


class EpisodeSource(ABC):
    """Has actions float64 (N, D), states float64 (N, P); subclasses read the images."""

    steps: Steps
    actions: np.ndarray
    states: np.ndarray | None

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Sample:
        episode, step, rows, valid = self.steps.locate(index)
        return Sample(
            images=self._images(episode, step),
            state=None if self.states is None else self.states[step],
            instruction=self._task(episode, step),
            chunk=self.actions[rows],
            valid=valid,
        )

    def instruction(self, index: int) -> str:
        episode, step, _, _ = self.steps.locate(index)
        return self._task(episode, step)

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.actions, self.states

    @abstractmethod
    def _images(self, episode: int, step: int) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _task(self, episode: int, step: int) -> str: ...


class Cache(Generic[T]):
    """Open values by key; the last used ones are kept while their sizes add up to ``limit``. Every
    process opens its own: a file that was opened before a fork has one position for both."""

    def __init__(
        self,
        limit: int,
        size: Callable[[T], int] | None = None,  # each counts 1
        close: Callable[[T], Any] | None = None,
    ) -> None:
        self._limit, self._size, self._close = limit, size, close
        self._values: OrderedDict[tuple[int, Hashable], T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_values': OrderedDict()}

    def get(self, key: Hashable, open_value: Callable[[], T]) -> T:
        own = os.getpid(), key
        if own not in self._values:
            self._values[own] = open_value()
            while self._used() > self._limit and len(self) > 1:
                self._drop(next(iter(self._values)))
        self._values.move_to_end(own)
        return self._values[own]

    def forget(self, key: Hashable) -> None:
        if (os.getpid(), key) in self._values:
            self._drop((os.getpid(), key))

    def _used(self) -> int:
        return sum(map(self._size, self._values.values())) if self._size else len(self)

    def _drop(self, own: tuple[int, Hashable]) -> None:
        value = self._values.pop(own)
        if self._close:
            self._close(value)


# --- numbers and their units ---------------------------------------------------------------------

# A dataset's gripper commands -> the policy's 0 closed .. 1 open. LIBERO's +1 closes, -1 (or 0)
# opens; clipped and inverted as by openvla-oft's libero_dataset_transform.
GRIPPERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'open_high': lambda values: values,
    'open_low': lambda values: 1.0 - values,
    'libero': lambda values: 1.0 - np.clip(values, 0.0, 1.0),
}

BEYOND = 1.0  # this many ranges (q01 to q99, or min to max) outside of the limits is far off
MOST = 0.05  # ratio of far values that is refused: q01 and q99 alone leave 2 % outside


def gripper_columns(profile: Profile) -> list[int]:
    return [i for i, name in enumerate(profile.action_names) if name.endswith('gripper')]


def require_finite(values: np.ndarray, what: str) -> None:
    """:raises DataError: names the first frame of ``values`` (T, ...) with NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        raise DataError(
            f'{what}, frame {int(bad[0])}: a number is not finite', 'leave this episode out'
        )


def require_units(source: Source, name: str, statistics: Statistics) -> None:
    """:raises DataError: a dimension is far off (degrees, millimetres, another gripper or order),
    or there are not as many as in the checkpoint."""
    actions, states = source.numbers()
    _require_within(actions, statistics.action, f'{name}: actions')
    if statistics.proprio is not None:
        if states is None:
            raise DataError(
                f'{name} has no states, and the checkpoint takes some', 'name the state feature'
            )
        _require_within(states, statistics.proprio, f'{name}: states')


def _require_within(values: np.ndarray, bounds: Bounds, what: str) -> None:
    if values.shape[1] != len(bounds.low):
        raise DataError(
            f'{what} have {values.shape[1]} numbers, the checkpoint {len(bounds.low)}',
            'choose the profile and the features that the checkpoint was trained with',
        )
    low = np.where(bounds.mask, bounds.low, 0.0)  # what is not scaled is 0 .. 1
    high = np.where(bounds.mask, bounds.high, 1.0)
    span = high - low
    far = (values < low - BEYOND * span - 1e-6) | (values > high + BEYOND * span + 1e-6)
    ratio = far.mean(axis=0)
    worst = int(ratio.argmax())
    if ratio[worst] > MOST:
        seen = np.quantile(values[:, worst], [0.01, 0.99])
        raise DataError(
            f'{what}: number {worst} runs from {seen[0]:.3g} to {seen[1]:.3g}, in the training of '
            f'the checkpoint from {low[worst]:.3g} to {high[worst]:.3g}',
            'bring the data into the units of the checkpoint, or start from one that was trained '
            'on such data',
        )


# --- formats -------------------------------------------------------------------------------------

FORMATS = {
    'two_cubes': '..dataset.TwoCubes',
    'libero_hdf5': '.libero_hdf5.LiberoHdf5',
    'lerobot': '.lerobot.LeRobot',
    'rosbag': '.rosbag.Rosbag',
}


def open_source(data: Data, profile: Profile, statistics: Statistics | None = None) -> Source:
    """:param statistics: of the checkpoint; says which branch of the rotation vector a pose of a
        bag belongs to, unless the options do.
    :raises DataError: it cannot be read or holds nothing. :raises ProfileError: an option.
    """
    module, _, name = FORMATS[data.format].rpartition('.')
    make = getattr(importlib.import_module(module, __package__), name)
    options = dict(data.options)
    if data.format == 'rosbag' and statistics is not None and statistics.proprio is not None:
        options.setdefault('rotation_reference', statistics.proprio.mean[3:6].tolist())
    source = make(data.path, profile, **options)
    if not len(source):
        raise DataError(f'{data.path} holds no samples', 'check the path and its format')
    return source
