"""A scripted expert that reads the two-cube scene's state, and nothing from the steps before: it
can also label states that another policy visits (DAgger, Ross et al. 2011). Proportional control
towards a target that follows from where things are: above the cube, down, close; then up, over the
goal, down, open, and away."""

import math

import numpy as np

from .scene import ANGULAR_UNIT_RAD, LINEAR_UNIT_M
from .two_cubes import TABLE_Z_M, Cube, Cubes, Task, TwoCubeScene

OPEN, CLOSE = -1.0, 1.0

_GAIN = 2.0
_TURN_GAIN = 1.5
_HOME_YAW_RAD = math.pi / 2
_HOME_M = np.array([-0.09, 0.0, 1.02])  # where the arm is after a reset
_TWISTED_RAD = 1.2
_STRETCHED_RAD = -0.25
_YAW_RANGE_RAD = (math.radians(-80.0), math.radians(100.0))
_GRASP_ABOVE_M = 0.008  # the finger pads reach from 3 to 19 mm below the grip point
_HOVER_M = 0.10  # over the cube: on the way there, and after letting go
_HELD_M = 0.25  # over the table: where a lifted cube is held
_CLEAR_M = 0.075  # over the table: fingers pass above both cubes
_NEAR_M = 0.012  # beside the cube: close enough for closing
_ROOM_M = 0.015  # between the fingers beyond the cube, to come down


def expert_action(scene: TwoCubeScene) -> np.ndarray:
    cubes, task, hand = scene.cubes(), scene.task, _Hand(scene)
    cube = cubes[task.target]
    if hand.twisted or hand.stretched:
        return _free_the_arm(hand, CLOSE if hand.holds(cube) else OPEN)
    if hand.holds(cube):
        if task.goal is not None:
            return _carry(hand, cubes, cube, task.goal(cubes))
        up = TABLE_Z_M + _HELD_M - hand.position[2]
        return hand.action(np.array([0.0, 0.0, up]), hand.yaw_rad, CLOSE)
    if task.goal is not None and task.reached(cubes):
        up = cube.position[2] + _HOVER_M - hand.position[2]
        return hand.action(np.array([0.0, 0.0, max(up, 0.0)]), hand.yaw_rad, OPEN)
    return _approach(hand, cubes, task)


class _Hand:
    def __init__(self, scene: TwoCubeScene) -> None:
        state = scene.state()
        self.position = state.ee_position
        self.gap_m = float(state.joint_positions[-2] - state.joint_positions[-1])
        elbow, forearm = state.joint_positions[3], state.joint_positions[4]
        self.stretched, self.twisted = elbow > _STRETCHED_RAD, abs(forearm) > _TWISTED_RAD
        self.rotation = scene.grip_rotation()
        axis = self.rotation[:, 0]
        self.yaw_rad = math.atan2(axis[1], axis[0])

    def holds(self, cube: Cube) -> bool:
        """Both fingers touch it from the sides, not from above."""
        offset = self.position - cube.position
        return (
            cube.between_fingers
            and self.gap_m > 2.0 * cube.half_m - 0.012
            and float(np.hypot(offset[0], offset[1])) < 0.03
            and abs(offset[2]) < cube.half_m + 0.01
        )

    def turn_error(self, yaw_rad: float) -> np.ndarray:
        """Rotation vector, world axes, to a hand that points down with its fingers at a yaw."""
        x = np.array([math.cos(yaw_rad), math.sin(yaw_rad), 0.0])
        z = np.array([0.0, 0.0, -1.0])
        turn = np.stack([x, np.cross(z, x), z], axis=1) @ self.rotation.T
        skew = turn - turn.T  # of a rotation by a about n: 2 sin(a) times the cross product by n
        axis = np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / 2.0
        sine, cosine = float(np.linalg.norm(axis)), (float(np.trace(turn)) - 1.0) / 2.0
        return axis / max(sine, 1e-9) * math.atan2(sine, cosine)

    def action(self, error_m: np.ndarray, yaw_rad: float, gripper: float) -> np.ndarray:
        turn = self.turn_error(yaw_rad) * _TURN_GAIN / ANGULAR_UNIT_RAD
        move = error_m * _GAIN / LINEAR_UNIT_M
        return np.clip(np.concatenate([move, turn, [gripper]]), -1.0, 1.0)


def _free_the_arm(hand: _Hand, gripper: float) -> np.ndarray:
    """A joint is at its stop, where the arm would stay for good: a straight elbow bends by a push
    outwards only, a forearm far aside turns back on the way home."""
    if hand.stretched:
        return np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper])
    return hand.action(_HOME_M - hand.position, _HOME_YAW_RAD, gripper)


def _carry(hand: _Hand, cubes: Cubes, cube: Cube, goal: np.ndarray) -> np.ndarray:
    error = goal - cube.position
    aside = float(np.hypot(error[0], error[1]))
    # A cube that hangs askew touches down early; released, it lies down flat.
    touched = not cube.touching.isdisjoint({*cubes, 'table'}) and error[2] > -0.015
    if aside < (0.015 if touched else 0.008) and (touched or error[2] > -0.004):
        return hand.action(np.zeros(3), hand.yaw_rad, OPEN)
    if aside < 0.008 + 0.25 * max(0.0, -error[2] - 0.015):
        error[2] -= 0.002
        # Far round, the wrist runs into its stops: turn back while the cube hangs free.
        yaw = _HOME_YAW_RAD if error[2] < -0.015 else hand.yaw_rad
        return hand.action(error, yaw, CLOSE)
    # Up first, then sideways, 3 cm over what lies on the table.
    error[2] = max(goal[2], TABLE_Z_M + cube.half_m + 0.05) + 0.03 - cube.position[2]
    free = 1.0 - _ramp(error[2], 0.01, 0.03)
    error[:2] *= free
    return hand.action(error, _HOME_YAW_RAD if free else hand.yaw_rad, CLOSE)


def _approach(hand: _Hand, cubes: Cubes, task: Task) -> np.ndarray:
    cube = cubes[task.target]
    others = [cubes[colour] for colour in cubes if colour != task.target]
    yaw = _grasp_yaw(hand, cube, others)
    error = cube.position + np.array([0.0, 0.0, _GRASP_ABOVE_M]) - hand.position
    aside, above = float(np.hypot(error[0], error[1])), max(0.0, -error[2])
    turned = float(np.linalg.norm(hand.turn_error(yaw)))
    if aside < _NEAR_M and above < 0.012 and turned < 0.25:
        return hand.action(error, yaw, CLOSE)
    wide = hand.gap_m > 2.0 * cube.half_m + _ROOM_M and turned < 0.25 + 2.0 * above
    if aside < _NEAR_M + 0.35 * above and (wide or above > _HOVER_M):
        return hand.action(error, yaw, OPEN)
    # Around the cube the hand may only rise; over everything it may go sideways.
    error[2] += _HOVER_M
    clear = TABLE_Z_M + _CLEAR_M
    error[:2] *= _ramp(hand.position[2], clear - 0.01, clear + 0.01)
    return hand.action(error, yaw, OPEN)


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _grasp_yaw(hand: _Hand, cube: Cube, others: list[Cube]) -> float:
    """Yaw of the finger axis, rad: along an edge, away from other cubes, near the home pose.

    The range of half a turn holds each of the two directions once. Home counts for more than the
    present yaw because joint 6 gets stuck at its stop where the hand has turned far."""
    axis = cube.rotation[:, int(np.argmin(np.abs(cube.rotation[2])))]
    edge = math.atan2(axis[1], axis[0]) - _HOME_YAW_RAD
    first = (edge - _YAW_RANGE_RAD[0]) % (math.pi / 2) + _YAW_RANGE_RAD[0] + _HOME_YAW_RAD
    yaws = (first, first + math.pi / 2)

    def cost(yaw: float) -> float:
        blocked = any(_fingers_meet(cube, yaw, other) for other in others)
        turn = (yaw - hand.yaw_rad + math.pi) % (2.0 * math.pi) - math.pi
        turns = abs(yaw - _HOME_YAW_RAD) + 0.5 * abs(turn)
        return turns + (10.0 if blocked else 0.0)

    return min(yaws, key=cost)


def _fingers_meet(cube: Cube, yaw_rad: float, other: Cube) -> bool:
    offset = other.position - cube.position
    along = abs(offset[0] * math.cos(yaw_rad) + offset[1] * math.sin(yaw_rad))
    across = abs(offset[1] * math.cos(yaw_rad) - offset[0] * math.sin(yaw_rad))
    reach = 1.2 * other.half_m
    return bool(abs(offset[2]) < 0.04 and along < 0.058 + reach and across < 0.014 + reach)
