"""Publishers of the policy node. All outputs of one query carry the stamp of its newest image."""

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from ...profiles import Profile
from ...records import MotionHint
from ...runtime.overlay import draw_overlay
from ..messages import build
from ..qos import command, overridable, sensor_data
from .query import Answer

UNKNOWN = 'unknown'
"""Word of a pruner that asks how the end effector moves and was not told."""


class Outputs:
    """Chunk, path, overlays and the record of each inference."""

    def __init__(self, node: LifecycleNode, profile: Profile, untrained: bool) -> None:
        self._node = node
        self._label = 'UNTRAINED ' if untrained else ''
        self._report_ms = 0.0
        self.chunk = self._publisher(JointTrajectory, '~/action_chunk', command())
        self._path = self._publisher(Path, '~/chunk_path', command())
        self._inference = self._publisher(DiagnosticArray, '~/inference', sensor_data(10))
        self._overlays = {
            c: self._publisher(CompressedImage, f'~/overlay/{c}', sensor_data(1))
            for c in profile.cameras
        }

    def publish(self, answer: Answer) -> None:
        """Send the chunk first, then what describes it; pictures only where somebody watches."""
        begin = time.perf_counter()
        self.chunk.publish(build.chunk(answer.chunk))
        publish_ms = 1e3 * (time.perf_counter() - begin)
        age_ms = 1e-6 * (self._node.get_clock().now().nanoseconds - answer.chunk.stamp_ns)
        self._inference.publish(
            inference_message(answer, publish_ms, self._report_ms, age_ms, self._label)
        )
        if answer.position is not None and self._path.get_subscription_count():
            self._path.publish(build.path(answer.chunk, answer.position))
        for camera, publisher in self._overlays.items():
            if publisher.get_subscription_count():
                publisher.publish(overlay_message(answer, camera, self._label))
        self._report_ms = 1e3 * (time.perf_counter() - begin) - publish_ms

    def destroy(self) -> None:
        """Take all publishers down."""
        for publisher in (self.chunk, self._path, self._inference, *self._overlays.values()):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publisher(self, kind: type, topic: str, qos: Any) -> Any:
        return self._node.create_lifecycle_publisher(
            kind, topic, qos, qos_overriding_options=overridable()
        )


def inference_values(
    answer: Answer, publish_ms: float, report_ms: float, age_ms: float
) -> dict[str, Any]:
    """Everything measured about one query, as plain values with the unit in the key.

    ``node_report_ms``, the time for this record, the path and the overlays, is the previous
    query's: its own is not over when it is written. ``overhead_ms`` is all of the node's time but
    the wait for the worker, which is the time of the query before.
    """
    node_ms = {**answer.node_ms, 'publish': publish_ms, 'report': report_ms}
    policy_ms = answer.inference.timings_ms
    pair = answer.job.pair
    return {
        **{f'node_{k}_ms': v for k, v in node_ms.items()},
        **{f'policy_{k}_ms': v for k, v in policy_ms.items()},
        'overhead_ms': sum(v for k, v in node_ms.items() if k != 'queue'),
        'stamp_to_chunk_ms': age_ms,
        'skew_ms': 1e3 * pair.skew_s,
        **{f'age_{k}_ms': 1e3 * v for k, v in pair.ages_s.items()},
        'early_cameras': len(answer.early),
        'visual_tokens': answer.inference.visual_tokens,
        **{f'kept_{camera}': int(mask.sum()) for camera, mask in answer.inference.kept.items()},
        'mode': answer.inference.mode,
        'steps': len(answer.chunk),
        'motion': UNKNOWN if answer.job.motion is None else answer.job.motion.source,
        **_speeds(answer.job.motion),
        **{f'pruning_{key}': value for key, value in answer.inference.pruning.items()},
        **({} if answer.refresh_ms is None else {'refresh_ms': answer.refresh_ms}),
        'scaled_steps': answer.report.scaled_translation + answer.report.scaled_rotation,
        'largest_step_m': answer.report.largest_m,
        'largest_step_rad': answer.report.largest_rad,
        'prompt': answer.inference.prompt.replace('\n', ' '),
    }


def _speeds(motion: MotionHint | None) -> dict[str, float]:
    """What is unknown is left out: 0 would be a motion."""
    if motion is None:
        return {}
    names = ('linear_m_s', 'angular_rad_s', 'vertical_m_s')
    return {f'motion_{name}': getattr(motion, name) for name in names}


def pruning_values(answer: Answer) -> dict[str, Any]:
    """What the diagnostics show of the last query's pruning.

    ``motion`` is the pruner's own word where it has one: a method that does not ask for the motion
    does not lack it either.
    """
    said = answer.inference.pruning
    out = {
        'mode': answer.inference.mode,
        'reason': said.get('reason', ''),
        'motion': said.get('motion', 'not used'),
        'motion_why': answer.job.motion_why,
        'visual_tokens': answer.inference.visual_tokens,
    }
    return out if answer.refresh_ms is None else {**out, 'refresh_ms': answer.refresh_ms}


def inference_message(
    answer: Answer, publish_ms: float, report_ms: float, age_ms: float, label: str
) -> DiagnosticArray:
    """The record of one query; its stamp joins it to the chunk."""
    status = build.status(
        'vla_policy: inference',
        inference_values(answer, publish_ms, report_ms, age_ms),
        message=f'{label}chunk published',
    )
    return build.diagnostics([status], answer.chunk.stamp_ns)


def overlay_message(answer: Answer, camera: str, label: str) -> CompressedImage:
    """What the model saw of one camera, pruned patches dimmed, as JPEG."""
    kept = answer.inference.kept[camera]
    text = (
        f'{label}{camera} {answer.inference.mode}',
        f'{int(kept.sum())}/{len(kept)} tokens  {answer.inference.timings_ms["total"]:.0f} ms',
    )
    picture = draw_overlay(answer.inference.model_images[camera], kept, text)
    return build.compressed_image(picture, answer.chunk.stamp_ns, camera)
