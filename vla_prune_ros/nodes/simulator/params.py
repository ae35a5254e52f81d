"""Parameters of the simulator node: declaration, ranges and documentation in one record."""

from dataclasses import dataclass

from ...config import option
from ...runtime.schedule import FREE, STEPPING
from ...sim.scene import SIMULATORS, Scene, make_scene


@dataclass(frozen=True)
class SimulatorParams:
    """Parameters of the node ``simulator``."""

    simulator: str = option(
        'two_cubes',
        f'Scene to open: {", ".join(SIMULATORS)}. Setting it opens the other scene at once.',
        live=True,
    )
    tasks: tuple[str, ...] = option(
        (),
        'Tasks of the episodes in turn: seed s has task s % N; empty for the '
        "simulator's own choice. Setting them opens the scene anew.",
        live=True,
    )
    seed: int = option(
        0,
        'Seed of the next episode; those after it count on. With the tasks of two_cubes even '
        'seeds ask for the red cube, odd ones for the green cube.',
        low=0,
        high=1_000_000_000,
        live=True,
    )
    stepping: str = option(
        FREE,
        'free: time runs on; synchronous: each step waits for the twist and the gripper command '
        'that are stamped with its time.',
        choices=STEPPING,
    )
    step_timeout_s: float = option(
        5.0,
        'With stepping synchronous: wall seconds without the commands of a step after which the '
        'node says what is missing; simulated time stands still until they come.',
        low=0.1,
        high=3600.0,
    )
    image_hz: float = option(
        20.0,
        'Images per camera and simulated second; at most one per control step, 20 Hz.',
        low=0.1,
        high=20.0,
    )
    real_time_factor: float = option(
        1.0, 'Simulated seconds per wall second; 0 for as fast as possible.', low=0.0, high=10.0
    )
    image_size: int = option(256, 'Side of the square pictures in pixels.', low=16, high=1024)
    gl: str = option(
        'auto',
        'OpenGL backend; auto takes MUJOCO_GL where it is set, else the first that renders.',
        choices=('auto', 'egl', 'osmesa'),
    )
    command_timeout_s: float = option(
        0.2, 'Simulated seconds after which a twist no longer moves the arm.', low=0.0, high=10.0
    )


def open_scene(parameters: SimulatorParams) -> Scene:
    """The scene that the parameters name; MuJoCo and robosuite are imported here.

    :raises VlaPruneError: unknown simulator or task, or something is not installed.
    """
    return make_scene(
        parameters.simulator,
        parameters.tasks,
        image_size=parameters.image_size,
        gl=parameters.gl,
    )
