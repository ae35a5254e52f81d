"""What a replay knows of a bag, and of each query of each method on it, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...bags.reader import Place
from ...records import InferenceRecord


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
        per step, gripper 0 closed ... 1 open; None if the query was refused.
    :param refusal: ``'reason: what'`` of a refused query, else empty.
    :param kept: camera -> bool (patches,), visual tokens that reached the last layer.
    :param record: as of ``~/inference``; its ``refresh_ms`` is that of the refresh behind this
        query, and its ``mode`` is empty if no query was run.
    """

    number: int
    epoch: int
    stamp_ns: int
    actions: np.ndarray | None
    refusal: str = ''
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: InferenceRecord = field(default_factory=InferenceRecord)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers survive to the last bit, masks are packed."""
        return {
            'number': self.number,
            'epoch': self.epoch,
            'stamp_ns': self.stamp_ns,
            'actions': None if self.actions is None else self.actions.tolist(),
            'refusal': self.refusal,
            'kept': {c: [len(m), np.packbits(m).tobytes().hex()] for c, m in self.kept.items()},
            'record': self.record.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'ReplayedQuery':
        """:raises KeyError, TypeError, ValueError: it is none."""
        actions = data['actions']
        return cls(
            number=int(data['number']),
            epoch=int(data['epoch']),
            stamp_ns=int(data['stamp_ns']),
            actions=None if actions is None else np.asarray(actions, np.float64),
            refusal=str(data['refusal']),
            kept={c: _unpacked(*packed) for c, packed in data['kept'].items()},
            record=InferenceRecord.from_json(data['record']),
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
        """:raises KeyError, TypeError, ValueError: it is none."""
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
