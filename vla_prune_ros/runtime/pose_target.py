"""A pose target that is integrated from the measured pose, one chunk at a time."""

import numpy as np
from scipy.spatial.transform import Rotation

Pose = tuple[np.ndarray, np.ndarray]


class PoseTarget:
    """Adds the steps of a chunk to where the arm was measured when the chunk began.

    Anchoring each chunk anew keeps errors from adding up over chunks; inside a chunk the target is
    open loop, as the policy was trained.

    :param max_age_s: oldest measured pose to start from, by receipt, s.
    """

    def __init__(self, max_age_s: float) -> None:
        self._max_age_ns = round(max_age_s * 1e9)
        self._measured: Pose | None = None
        self._receipt_ns = 0
        self._anchor = True
        self.pose: Pose | None = None
        """Target position (3,) m and quaternion (4,) x y z w, None before the first step."""

    def measured(self, position: np.ndarray, quat_xyzw: np.ndarray, receipt_ns: int) -> None:
        """Take in a measured pose; one that is not finite or no rotation is ignored."""
        norm = np.linalg.norm(quat_xyzw)
        if np.isfinite(position).all() and np.isfinite(norm) and norm > 1e-6:
            self._measured, self._receipt_ns = (position, quat_xyzw / norm), receipt_ns

    def anchor_next(self) -> None:
        """The next step begins a new chunk: start it from the measured pose."""
        self._anchor = True

    def advance(self, delta: np.ndarray, mono_ns: int) -> bool:
        """Move the target by one step.

        :param delta: (6,) translation m and rotation vector rad in the base frame, rotation
            applied from the left.
        :returns: False where a new chunk has no fresh measured pose to start from.
        """
        if self._anchor and not self.hold(mono_ns):
            return False
        self._anchor = False
        position, quaternion = self.pose
        turned = Rotation.from_rotvec(delta[3:]) * Rotation.from_quat(quaternion)
        self.pose = (position + delta[:3], turned.as_quat())
        return True

    def hold(self, mono_ns: int) -> bool:
        """Put the target where the arm is; False, and no target, where that is not known."""
        fresh = self._measured is not None and mono_ns - self._receipt_ns <= self._max_age_ns
        self.pose = self._measured if fresh else None
        self._anchor = True
        return fresh
