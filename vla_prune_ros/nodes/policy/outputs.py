"""Publishers of the policy node. All outputs of a request carry the stamp of its newest image."""

import time

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from ...profiles import Profile
from ...runtime.images import draw_overlay
from ...runtime.session import InferenceResult
from ..interface import Topic, command, sensor_data
from ..messages import build

CHUNK = Topic('~/action_chunk', JointTrajectory, command(), 'The chunk; see below.')
PATH = Topic(
    '~/chunk_path',
    Path,
    command(),
    'Where the chunk leads from the measured position, m; translations only. Made only while '
    'somebody subscribes.',
)
OVERLAY = Topic(
    '~/overlay/<camera>',
    CompressedImage,
    sensor_data(1),
    'What the model saw, 224 x 224 JPEG, pruned patches dimmed. Made only while somebody '
    'subscribes.',
)
INFERENCE = Topic(
    '~/inference', DiagnosticArray, sensor_data(10), 'One record per query; see below.'
)


class Outputs:
    def __init__(self, node: LifecycleNode, profile: Profile, untrained: bool) -> None:
        self._node = node
        self._label = 'UNTRAINED ' if untrained else ''
        self._report_ms = 0.0
        self.chunk = CHUNK.lifecycle_publisher(node)
        self._path = PATH.lifecycle_publisher(node)
        self._overlays = {c: OVERLAY.lifecycle_publisher(node, camera=c) for c in profile.cameras}
        self._inference = INFERENCE.lifecycle_publisher(node)

    def publish(self, result: InferenceResult) -> None:
        """Send the chunk first, then what describes it; images only if somebody subscribes."""
        begin = time.perf_counter()
        self.chunk.publish(build.chunk(result.chunk))
        publish_ms = 1e3 * (time.perf_counter() - begin)
        age_ms = 1e-6 * (self._node.get_clock().now().nanoseconds - result.chunk.stamp_ns)
        record = result.published_record(publish_ms, self._report_ms, age_ms)
        status = build.status(
            'vla_policy: inference', record.flat(), message=f'{self._label}chunk published'
        )
        self._inference.publish(build.diagnostics([status], result.chunk.stamp_ns))
        if result.position is not None and self._path.get_subscription_count():
            self._path.publish(build.path(result.chunk, result.position))
        for camera, publisher in self._overlays.items():
            if publisher.get_subscription_count():
                publisher.publish(overlay_message(result, camera, self._label))
        self._report_ms = 1e3 * (time.perf_counter() - begin) - publish_ms

    def destroy(self) -> None:
        for publisher in (self.chunk, self._path, self._inference, *self._overlays.values()):
            self._node.destroy_lifecycle_publisher(publisher)


def overlay_message(result: InferenceResult, camera: str, label: str) -> CompressedImage:
    inference = result.inference
    kept = inference.kept[camera]
    text = (
        f'{label}{camera} {inference.mode}',
        f'{int(kept.sum())}/{len(kept)} tokens  {inference.timings_ms["total"]:.0f} ms',
    )
    image = draw_overlay(inference.model_images[camera], kept, text)
    return build.compressed_image(image, result.chunk.stamp_ns, camera)
