"""What a replay knows of a bag, and of each query of each method on it, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...bags.reader import Place
from ...records import MotionHint


@dataclass(frozen=True, eq=False)
class Instant:
    """A moment at which the node would have asked the policy; the same for every method.

    :param epoch: grows with every jump of time and every new instruction; the policy forgets then.
    :param stamp_ns: of the newest image; ``receipt_ns``: of the image that completed the pair.
    :param images: camera -> where its image lies in the bag.
    :param position: float64 (3,) measured end effector in m, None where unknown.
    """

    epoch: int
    stamp_ns: int
    receipt_ns: int
    instruction: str
    images: Mapping[str, Place]
    position: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        position = None if self.position is None else self.position.tolist()
        return {**vars(self), 'position': position}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Instant':
        images = {camera: Place(*place) for camera, place in data['images'].items()}
        at = data['position']
        position = None if at is None else np.asarray(at, np.float64)
        return cls(**{**data, 'images': images, 'position': position})


@dataclass(frozen=True, eq=False)
class ReplayedQuery:
    """What one method answered at one instant.

    :param number: of the instant in its bag.
    :param actions: float64 (K, 7) as the node would have published it: m, rad (rotation vector)
        per step, gripper 0 closed ... 1 open; None where the query was refused.
    :param refusal: ``'reason: what'`` of a refused query, else empty.
    :param mode: ``'dense'``, ``'coarse'`` or ``'fine'``; empty where no query was run.
    :param kept: camera -> bool (patches,), visual tokens that reached the last layer.
    :param timings_ms: stage -> milliseconds, ``total`` included.
    :param refresh_ms: the dense look after the query; None where there was none.
    :param motion: what the pruner was told; None where the motion was unknown.
    """

    number: int
    epoch: int
    stamp_ns: int
    actions: np.ndarray | None
    refusal: str = ''
    mode: str = ''
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    refresh_ms: float | None = None
    motion: MotionHint | None = None

    @property
    def visual_tokens(self) -> int:
        """Tokens that reached the last layer, all cameras together."""
        return int(sum(int(mask.sum()) for mask in self.kept.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers survive to the last bit, masks are packed."""
        return {
            'number': self.number,
            'epoch': self.epoch,
            'stamp_ns': self.stamp_ns,
            'actions': None if self.actions is None else self.actions.tolist(),
            'refusal': self.refusal,
            'mode': self.mode,
            'kept': {c: [len(m), np.packbits(m).tobytes().hex()] for c, m in self.kept.items()},
            'timings_ms': dict(self.timings_ms),
            'refresh_ms': self.refresh_ms,
            'motion': None if self.motion is None else dict(vars(self.motion)),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'ReplayedQuery':
        """Inverse of :meth:`to_json`.

        :raises KeyError, TypeError, ValueError: it is none.
        """
        actions, motion = data['actions'], data['motion']
        return cls(
            int(data['number']),
            int(data['epoch']),
            int(data['stamp_ns']),
            None if actions is None else np.asarray(actions, np.float64),
            str(data['refusal']),
            str(data['mode']),
            {c: _unpacked(*packed) for c, packed in data['kept'].items()},
            dict(data['timings_ms']),
            data['refresh_ms'],
            None if motion is None else MotionHint(**motion),
        )


@dataclass(frozen=True, eq=False)
class Recording:
    """What one pass over a bag found, without asking a policy.

    :param topics: stream -> topic; ``guessed`` by type and name, or named by the user.
    :param there: topic -> (type, messages) of the bag.
    :param span_ns: first and last time of receipt of the messages that were read.
    :param lost: what could not be read; ``losses``: reason -> messages and pairs not used.
    :param problems: (code, one line) of everything else that a reader must know.
    :param source: stream of the recorded actions; empty where there are none.
    :param actions: float64 (N, K, 7) what was done from each instant on, in the units of
        :class:`ReplayedQuery`; ``valid``: bool (N, K), where that is known.
    """

    path: str
    topics: Mapping[str, str]
    guessed: bool
    there: Mapping[str, tuple[str, int]]
    span_ns: tuple[int, int]
    instants: tuple[Instant, ...]
    lost: tuple[str, ...]
    losses: Mapping[str, int]
    problems: tuple[tuple[str, str], ...]
    source: str
    actions: np.ndarray
    valid: np.ndarray

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            'instants': [instant.to_json() for instant in self.instants],
            'actions': [list(self.actions.shape), self.actions.ravel().tolist()],
            'valid': self.valid.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Recording':
        """Inverse of :meth:`to_json`.

        :raises KeyError, TypeError, ValueError: it is none.
        """
        shape, actions = data['actions']
        return cls(
            path=data['path'],
            topics=data['topics'],
            guessed=data['guessed'],
            there={name: (type_, count) for name, (type_, count) in data['there'].items()},
            span_ns=tuple(data['span_ns']),
            instants=tuple(map(Instant.from_json, data['instants'])),
            lost=tuple(data['lost']),
            losses=data['losses'],
            problems=tuple((code, text) for code, text in data['problems']),
            source=data['source'],
            actions=np.asarray(actions, np.float64).reshape(shape),
            valid=np.asarray(data['valid'], bool).reshape(shape[:2]),
        )


def _unpacked(length: int, packed: str) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8))
    if len(bits) < length:
        raise ValueError('mask is too short')
    return bits[:length].astype(bool)
