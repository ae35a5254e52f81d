"""What the evaluations take: records that the command line declares, fills and hands over.

Nothing heavy is imported here, so that ``vla-prune COMMAND --help`` is instant.
"""

from dataclasses import dataclass
from pathlib import Path

from ..config import from_arguments, option

METHODS = ('dense', 'uniform:128', 'specprune')
POLICY = (
    "checkpoint folder, or 'org/name' of the hub (default: the package's reference policy, or an "
    'untrained one where that is not installed)'
)
MACHINE = {'group': 'machine'}
NO_REFRESH = 'no dense pass between queries, as on a robot that has no time for it'


@dataclass(frozen=True)
class MachineOptions:
    dtype: str = option('float32', 'dtype of the weights', flags=MACHINE)
    device: str = option('cpu', 'torch device', flags=MACHINE)
    threads: int = option(
        1,
        'torch threads of each worker; results are the same for any number of workers, and may '
        'differ in the last bit between numbers of threads',
        low=1,
        flags=MACHINE,
    )


@dataclass(frozen=True)
class WorkerOptions:
    workers: int = option(1, 'processes', low=1, flags=MACHINE)
    ray: str = option(
        '',
        'run the workers on a Ray cluster; files and --out where they lie here',
        flags=MACHINE | {'metavar': 'ADDRESS|auto|local'},
    )


@dataclass(frozen=True)
class CheckOptions:
    checkpoint: str = option(
        doc="checkpoint folder, or a name on the Hugging Face hub ('org/name')",
        flags={'positional': True},
    )
    profile: str = option('libero', 'libero, aloha, bridge or a YAML file')
    unnorm_key: str | None = option(None, 'key of the statistics, if the file holds several')
    tokenizer: Path | None = option(None, "default: the checkpoint's", flags={'metavar': 'DIR'})
    dtype: str = option('bfloat16', 'dtype of the weights')
    head: str = option('auto', choices=('auto', 'l1', 'diffusion', 'discrete'))
    device: str = option('cpu', 'cpu or cuda')


# --- closed loop ---------------------------------------------------------------------------------

_TASK = {'group': 'task'}


@dataclass(frozen=True)
class Setting(MachineOptions):
    """What all episodes of a run have in common; with another setting they are other episodes."""

    simulator: str = option('two_cubes', 'which simulator', flags=_TASK)
    instruction: str = option(
        '',
        "give the policy this instruction instead of the task's own; other: the same with the "
        'colours swapped, which a policy that follows its instruction must fail',
        flags=_TASK | {'metavar': 'other|TEXT'},
    )
    profile: str = option('libero', 'robot profile')
    refresh: bool = option(True, NO_REFRESH, flags=_TASK)
    max_steps: int | None = option(
        None,
        "control steps per episode (default: the scene's own limit, else 150 for picking and 250 "
        'for other tasks)',
        low=1,
        flags=_TASK,
    )


@dataclass(frozen=True)
class EvaluateOptions(Setting, WorkerOptions):
    checkpoint: str | Path | None = option(None, POLICY, flags={'positional': True})
    methods: tuple[str, ...] = option(
        ('dense', 'uniform:128', 'fastv:128', 'specprune'),
        'pruning methods; the others are compared with the first. METHOD@FOLDER takes weights of '
        'its own',
        flags={'metavar': 'METHOD'},
    )
    out: Path = option(
        Path('out/evaluate'),
        'folder for episodes, figures and videos; what it holds is not run again',
    )
    tasks: tuple[str, ...] = option(
        (),
        "names of the simulator's tasks; all: every one (default for two_cubes: pick_red "
        'pick_green, for a suite: all)',
        flags=_TASK | {'metavar': 'TASK'},
    )
    episodes: int | None = option(
        None,
        'episodes per method and task (default: 200; for a suite of LIBERO 50, each fixed initial '
        'state once)',
        low=1,
        flags=_TASK,
    )
    first_seed: int = option(0, 'seed of the first episode, the others count on', flags=_TASK)
    videos: int = option(
        0,
        'videos of the first N episodes per method and task, while they are run',
        flags=MACHINE | {'metavar': 'N'},
    )
    command: str = ''  # for the report: how to repeat it

    @property
    def setting(self) -> Setting:
        return from_arguments(Setting, self)


@dataclass(frozen=True)
class RecordOptions:
    out: Path = option(Path('out/demo-bag'), 'folder of the bag, made new')
    overwrite: bool = option(False, 'replace the bag that is there')
    task: str = option('pick_red', 'task of the scene, as for vla-prune evaluate --tasks')
    episodes: int = option(1, 'one behind the other, 2 s apart', low=1)
    driver: str = option('expert', 'who moves the arm', choices=('expert', 'policy'))
    checkpoint: str | Path | None = option(None, f'of the policy that drives: {POLICY}')
    method: str = option('dense', 'how the policy that drives is pruned')
    seed: int = option(0, 'of the first episode')
    steps: int | None = option(
        None,
        'control steps per episode at most, 20 per second (default: 150 for picking and 250 for '
        'other tasks)',
        low=1,
    )
    size: int = option(256, 'side of the images in pixels', low=16, high=1024)
    storage: str = option('mcap', choices=('mcap', 'sqlite3'))
    compressed: bool = option(False, 'images as JPEG')


# --- bench ---------------------------------------------------------------------------------------

_PRUNING = {'group': '--pruning and --curve'}
_SIM = {'group': '--sim'}


@dataclass(frozen=True)
class BenchModelOptions:
    """Which network is timed, on what, and how often. Queries that warm up are not counted."""

    preset: str = option(
        'demo',
        'shapes of the random weights; 7b: those of the published model, 15 GB in bfloat16',
        choices=('micro', 'demo', '7b'),
        flags=_PRUNING,
    )
    profile: str = option('libero', 'robot profile (--dtypes, --pruning)')
    checkpoint: str | Path | None = option(
        None,
        "checkpoint folder, 'org/name' of the hub, or reference (default: an untrained one, made "
        'here)',
    )
    layers: int | None = option(
        None, "decoder layers, instead of the preset's", low=1, flags=_PRUNING
    )
    # At 7B shape a layer's 0.4 GB exceed any cache, so the memory traffic is the same too.
    share_layers: bool = option(
        False,
        'every decoder layer uses the weights of the first: same work, memory of one',
        flags=_PRUNING,
    )
    dtype: str = option('bfloat16', 'dtype of the weights', flags=_PRUNING)
    device: str = option('cpu', 'torch device (--dtypes, --pruning)')
    engine: str = option(
        'auto',
        'how the network is run; auto: CUDA graphs on a CUDA device',
        choices=('auto', 'graphs', 'eager'),
        flags=_PRUNING,
    )
    threads: int | None = option(
        None, "torch threads, instead of torch's choice", low=1, flags=_PRUNING
    )
    queries: int = option(16, 'counted inferences of each method', low=1, flags=_PRUNING)
    seed: int = 0  # of the weights


@dataclass(frozen=True)
class PruningBenchOptions(BenchModelOptions):
    methods: tuple[str, ...] = option(
        METHODS,
        'time of the policy with each method, selection apart; dense comes first, always',
        flags={'flag': '--pruning', 'metavar': 'METHOD', 'exclusive': True},
    )
    published: bool = option(
        True,
        'leave out the dense model as the published code executes it (--pruning)',
        flags=_PRUNING,
    )
    refresh: bool = option(True, NO_REFRESH, flags=_PRUNING)


@dataclass(frozen=True)
class DtypeBenchOptions(BenchModelOptions):
    dtypes: tuple[str, ...] = option(
        (),
        'time and memory of the policy in each dtype',
        flags={'metavar': 'DTYPE', 'exclusive': True},
    )
    runs: int = option(20, 'counted inferences (--dtypes)', low=1)


@dataclass(frozen=True)
class SimBenchOptions:
    size: int = option(224, 'side of both views in pixels', low=1, flags=_SIM)
    steps: int = option(100, 'counted control steps', low=1, flags=_SIM)
    gl: str = option('auto', 'OpenGL backend', choices=('auto', 'egl', 'osmesa'), flags=_SIM)
