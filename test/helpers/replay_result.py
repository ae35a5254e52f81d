"""A result of ``vla-prune replay`` by hand, small enough to check by eye."""

import base64
from dataclasses import replace

import cv2
import numpy as np

from vla_prune_ros.evaluate.replay.metrics import Borders, Comparison, Flips
from vla_prune_ros.evaluate.replay.results import (
    BagResult,
    MethodRow,
    Moment,
    ReplayResult,
    Series,
)
from vla_prune_ros.evaluate.replay.store import Instant, Recording, ReplayedQuery
from vla_prune_ros.records import InferenceRecord

AXES = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz')
METHODS = ('dense', 'specprune')
T0, MS = 1_700_000_000_000_000_000, 10**6
GREY = 200


def instant(i=0, **changes):
    """Queries come every 200 ms, received 8 ms after their stamps."""
    stamp_ns = T0 + 200 * MS * i
    return replace(Instant(0, stamp_ns, stamp_ns + 8 * MS, 'lift', {}), **changes)


def query(i, actions=None, *, refusal='', kept=None, **record):
    """The answer at that instant, with these values of the record."""
    kept = kept or {}
    counts = {camera: int(mask.sum()) for camera, mask in kept.items()}
    record = InferenceRecord(kept=counts, **record)
    return ReplayedQuery(i, 0, T0 + 200 * MS * i, actions, refusal, kept, record)


def recording(instants=(), **changes):
    """What a pass over a bag found: these instants, and else nothing."""
    made = Recording(
        topics={},
        guessed=False,
        there={},
        span_ns=(0, 0),
        instants=tuple(instants),
        losses={},
        problems=(),
        source='',
        actions=np.zeros((len(instants), 8, 7)),
        valid=np.zeros((len(instants), 8), bool),
    )
    return replace(made, **changes)


def spread(mean):
    """Figures of a distribution, each another one."""
    return {'mean': mean, 'p50': mean * 0.5, 'p95': mean * 2, 'max': mean * 4}


def comparison(mean, **changes):
    """How far chunks are apart; the last axis never moved."""
    made = Comparison(
        steps=24,
        translation_mm=spread(mean),
        rotation_deg=spread(mean / 8),
        end_mm=spread(mean * 8),
        axes={a: {'mean_abs': mean + i, 'bias': i - 2.5} for i, a in enumerate(AXES)},
        sign_agreement={a: None if a == 'delta_rz' else 0.75 for a in AXES},
        gripper_agreement=0.875,
        flips=Flips(here=5, there=4, matched=3, offset_ms={'mean': 52.5, 'p95': 90.0}),
    )
    return replace(made, **changes)


def row(method, **changes):
    """A method's row; dense is not compared with itself."""
    dense = method == 'dense'
    made = MethodRow(
        method=method,
        queries=4,
        refused=1,
        refusals={'stale': 1},
        visual_tokens=512.0 if dense else 128.0,
        latency_ms={'p50': 80.0 if dense else 32.0, 'p95': 96.5},
        refresh_ms=None if dense else {'p50': 3.25, 'p95': 4.5},
        modes={'dense': 3} if dense else {'dense': 1, 'coarse': 1, 'fine': 2},
        versus_dense=None if dense else comparison(1.375),
        versus_recorded=comparison(6.625),
        borders=Borders(
            borders=2,
            jump_mm={'p50': 1.75, 'p95': 2.75},
            inside_mm={'p50': 0.375, 'p95': 0.625},
            jerk_m_s3={'p50': 14.0, 'p95': 22.0},
        ),
    )
    return replace(made, **changes)


def empty_row(method):
    """A method that was never asked."""
    nothing = dict.fromkeys(('visual_tokens', 'latency_ms', 'refresh_ms'))
    nothing |= dict.fromkeys(('versus_dense', 'versus_recorded'))
    borders = Borders(borders=0, jump_mm=None, inside_mm=None, jerk_m_s3=None)
    return row(method, queries=0, refused=0, refusals={}, modes={}, borders=borders, **nothing)


def series(method, **changes):
    """Four queries, 0.5 s apart; the third was refused."""
    dense = method == 'dense'
    tokens = 512 if dense else 128
    made = Series(
        t_s=[0.5, 1.0, 1.5, 2.0],
        latency_ms=[80.0, 81.0, None, 82.0],
        visual_tokens=[tokens, tokens, None, tokens],
        mode=['dense', 'dense' if dense else 'coarse', '', 'dense' if dense else 'fine'],
        speed_m_s=[0.0, 0.25, None, 0.125],
        dense_mm=[None] * 4 if dense else [1.0, 2.0, None, 1.5],
        recorded_mm=[6.0, 7.0, None, 8.0],
        gripper=[1.0, 1.0, None, 0.0],
        refusal=['', '', 'stale: image of front is 0.41 s old', ''],
    )
    return replace(made, **changes)


def image_uri(image):
    """uint8 (H, W, 3) RGB as a JPEG data URI."""
    _, coded = cv2.imencode('.jpg', np.ascontiguousarray(image[..., ::-1]))
    return 'data:image/jpeg;base64,' + base64.b64encode(coded.tobytes()).decode('ascii')


def moment(kept, **changes):
    """One moment of one camera, a flat grey image.

    :param kept: method -> 256 characters.
    """
    made = Moment(
        t_s=1.5,
        camera='front',
        image=image_uri(np.full((224, 224, 3), GREY, np.uint8)),
        kept=dict(kept),
        mode=dict.fromkeys(kept, 'fine'),
    )
    return replace(made, **changes)


def bag(name='kitchen', methods=METHODS, **changes):
    """A bag of four queries."""
    made = BagResult(
        name=name,
        path=f'bags/{name}',
        problems=({'code': 'unstamped', 'text': '7 messages of /front/image have no stamp'},),
        rows=tuple(map(row, methods)),
        strip=(moment({m: '1' * 64 + '0' * 192 for m in methods}),),
        duration_s=2.5,
        start_ns=1_700_000_000_000_000_000,
        there={
            '/front/image': {'type': 'sensor_msgs/msg/Image', 'count': 75},
            '/tf': {'type': 'tf2_msgs/msg/TFMessage', 'count': 4711},
        },
        topics={'front': '/front/image'},
        guessed=True,
        instructions=('pick up the red cube',),
        queries=4,
        epochs=2,
        losses={'skew': 2, 'stale:front': 13},
        recorded='twist',
        series={m: series(m) for m in methods},
        recorded_series={'t_s': [0.5, 1.0, 1.5], 'gripper': [1.0, None, 0.0]},
    )
    return replace(made, **changes)


def empty_bag(name='empty'):
    """A bag that could not be read."""
    problem = {'code': 'unread', 'text': 'cut off'}
    return BagResult(name=name, path=f'bags/{name}', problems=(problem,))


def result(bags=None, methods=METHODS, **changes):
    """The whole result, of one bag where none are given."""
    bags = [bag(methods=methods)] if bags is None else bags
    made = ReplayResult(
        ok=True,
        command='vla-prune replay kitchen --pruning dense,specprune',
        untrained=False,
        checkpoint='weights/micro',
        checkpoints={m: {'folder': 'weights/micro'} for m in methods},
        settings={'profile': 'libero', 'dtype': 'float32', 'period_s': 0.5, 'chunk': 8},
        machine={'cpu': 'a processor', 'cores': 2, 'packages': {'numpy': '9.9.9'}},
        versions={'vla_prune_ros': '1.2.3'},
        rows=tuple(map(row, methods)),
        bags=tuple(bags),
        problems=tuple({'bag': b.name, **problem} for b in bags for problem in b.problems),
    )
    return replace(made, **changes)
