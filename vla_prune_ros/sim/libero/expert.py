"""A scripted expert for libero_spatial that reads the simulator's state: the bowl onto the plate.

Proportional control towards a target that follows from where things are: over the bowl's rim,
down, close; then up, over the plate, down, open, and away. Made for the generated assets, whose
bowl is 5 cm high."""

import numpy as np

from ...errors import VlaPruneError
from ..expert import CLOSE, OPEN
from ..panda import FINGER_BODIES, contacts
from ..scene import LINEAR_UNIT_M, SceneState
from .scene import LiberoScene

SUITE = 'libero_spatial'

_BOWL_RIM_M = 0.048  # radius of the bowl's rim at grasping height
_GAIN = 2.5  # with less, friction holds a hand that touches the bowl
_GRASP_ABOVE_M = 0.030  # grip point over the bowl's foot: fingertips 2 cm lower, rim 2 cm higher
_HOVER_M = 0.12  # over the grasp: fingers clear bowls, cookies and drawer fronts
_NEAR_M = 0.013  # beside the grasp: close enough for closing
_STILL_NEAR_M = 0.030  # while the fingers close, they may push the bowl this far
_OPEN_GAP_M = 0.07
_SHUT_GAP_M = 0.002
_CARRY_M = 0.12  # bowl over the plate's foot on the way there
_CARRY_OVER_CABINET_M = 0.30
_CABINET_REACH_M = 0.26
_PALM_CLEARS_CABINET_M = 0.24  # grip point over the cabinet's foot
_CENTRED_M = 0.020  # LIBERO asks for 3 cm
_RELEASE_M = 0.018  # bowl over the plate's foot when it may drop
_RISE_M = 0.02  # error at most, upwards: a bowl that is held by its rim is lifted gently
_SLOPE = 3.0  # height over the target per distance aside of it


def libero_expert_action(scene: LiberoScene) -> np.ndarray:
    if scene.suite != SUITE:
        raise VlaPruneError(
            f'the scripted expert knows no task of {scene.suite}', f'use it with {SUITE}'
        )
    bowl_name, plate_name = scene.env.env.obj_of_interest[:2]
    bowl, plate = (scene.env.body_position(name) for name in (bowl_name, plate_name))
    if scene.success():
        return _action(np.array([0.0, 0.0, 0.10]), OPEN)
    cabinet = scene.env.body_position('wooden_cabinet_1')
    beside = float(np.hypot(*(bowl - cabinet)[:2])) < _CABINET_REACH_M
    if _held(scene, bowl_name):
        return _carry(bowl, plate, _CARRY_OVER_CABINET_M if beside else _CARRY_M)
    grasp = bowl + [0.0, _BOWL_RIM_M, _GRASP_ABOVE_M]
    clear = cabinet[2] + _PALM_CLEARS_CABINET_M - grasp[2] if beside else 0.0
    return _approach(scene.state(), grasp, max(_HOVER_M, clear))


def _approach(state: SceneState, grasp: np.ndarray, hover: float) -> np.ndarray:
    """Over the rim on the robot's left, down between its inside and outside, close."""
    error = grasp - state.ee_position
    aside = float(np.hypot(error[0], error[1]))
    gap = state.joint_positions[-2] - state.joint_positions[-1]
    speed = state.joint_velocities[-2] - state.joint_velocities[-1]
    closing = _SHUT_GAP_M < gap < _OPEN_GAP_M and speed < 0.005
    near = _STILL_NEAR_M if closing else _NEAR_M
    if aside < near and abs(error[2]) < near:
        return _action(np.zeros(3), CLOSE)
    return _action(_funnel(error, min(hover, _SLOPE * max(0.0, aside - 0.8 * _NEAR_M))), OPEN)


def _carry(bowl: np.ndarray, plate: np.ndarray, above: float) -> np.ndarray:
    error = plate - bowl
    aside = float(np.hypot(error[0], error[1]))
    if aside < _CENTRED_M and -error[2] < _RELEASE_M:
        return _action(np.zeros(3), OPEN)
    height = min(above, _SLOPE * max(0.0, aside - _CENTRED_M / 2))
    return _action(_funnel(error, max(height, _RELEASE_M / 2)), CLOSE)


def _funnel(error: np.ndarray, height: float) -> np.ndarray:
    """Towards a point ``height`` over the target, and not sideways while far below it. The height
    falls steadily with the distance aside, so that no threshold makes the hand turn back."""
    rise = error[2] + height
    sideways = min(1.0, max(0.0, 1.0 - (rise - 0.03) / 0.05))
    return np.array([error[0] * sideways, error[1] * sideways, min(rise, _RISE_M)])


def _held(scene: LiberoScene, bowl: str) -> bool:
    pairs = contacts(scene.env.sim)
    touching = {other for body, other in pairs if body.startswith(f'{bowl}_')}
    return all(touching & finger for finger in FINGER_BODIES)


def _action(error_m: np.ndarray, gripper: float) -> np.ndarray:
    move = error_m * _GAIN / LINEAR_UNIT_M
    return np.clip(np.concatenate([move, np.zeros(3), [gripper]]), -1.0, 1.0)
