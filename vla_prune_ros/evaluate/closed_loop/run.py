"""``vla-prune evaluate``: methods times tasks times seeds in closed loop, resumable."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import VlaPruneError
from ...sim.registry import make_scene
from ...sim.two_cubes import PICK_TASKS, TASKS
from ..machine import checkpoint_card, machine, versions
from ..methods import Method, parse_methods
from ..pool import run_jobs
from .episodes import EpisodeKey, EpisodeResult, EpisodeStore, Setting
from .tables import result_rows
from .worker import EpisodeWorker, Job, Outcome, video_path

OnEpisodes = Callable[[EpisodeKey, EpisodeResult], None]
"""Called with every episode: those that are there already, then each that ends."""

_ERRORS_SHOWN = 5


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated.

    :param checkpoint: folder of all methods that name none of their own.
    :param methods: names; the first is what the others are compared with.
    :param tasks: names of the simulator's tasks.
    :param episodes: per method and task, with seeds ``first_seed``, ``first_seed + 1`` and so on,
        the same ones for every method.
    :param out: folder for episodes and videos.
    :param workers: processes, or actors with ``ray``.
    :param ray: see :func:`~.worker_pool.run_jobs`.
    :param videos: of the first so many episodes per method and task, where they are run now.
    :param command: for the report, how to repeat it.
    """

    checkpoint: Path
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    episodes: int
    first_seed: int
    out: Path
    setting: Setting
    workers: int = 1
    ray: str = ''
    videos: int = 0
    command: str = ''


@dataclass(frozen=True)
class Evaluation:
    """What a run gave: the JSON result, and the episodes that it is made of, in their order.

    ``result['ok']`` is False where an episode raised an error.
    """

    result: dict[str, Any]
    episodes: dict[EpisodeKey, EpisodeResult]


def run_evaluate(options: EvaluateOptions, on_episode: OnEpisodes) -> Evaluation:
    """Run what the folder does not hold yet and give the result of all.

    An episode that raised an error counts as a failure; the next run tries it again.

    :raises VlaPruneError: an option is not usable, the folder holds episodes of something else,
        or the simulator or a checkpoint cannot be opened.
    """
    methods = parse_methods(options.methods, options.checkpoint)
    card = checkpoint_card(options.checkpoint)
    with EpisodeStore(options.out, options.setting, versions()) as store:
        wanted = set(_keys(options))
        there = store.episodes(methods, card['fingerprint'])
        done = {k: e for k, e in there.items() if k in wanted and not e.error}
        for key, result in done.items():
            on_episode(key, result)
        jobs = plan_jobs(options, methods, done)
        running = run_jobs(EpisodeWorker, jobs, options.setting, options.workers, options.ray)
        with closing(running) as outcomes:
            for job, result in _recorded(outcomes, store):
                done[job.key] = result
                on_episode(job.key, result)
    return _evaluation(options, methods, card, done)


def stored(options: EvaluateOptions) -> Evaluation:
    """The result of what the folder holds now, nothing run."""
    methods = parse_methods(options.methods, options.checkpoint)
    card = checkpoint_card(options.checkpoint)
    with EpisodeStore(options.out, options.setting, versions()) as store:
        there = store.episodes(methods, card['fingerprint'])
    return _evaluation(options, methods, card, there)


def task_names(simulator: str, given: Sequence[str]) -> tuple[str, ...]:
    """Names of the tasks to evaluate, each once.

    :param given: as the user names them; ``['all']`` for every task, empty for the simulator's
        own choice: both cubes to pick up, or every task of a suite.
    :raises VlaPruneError: the simulator or a task is unknown, or something is not installed.
    """
    everything = list(given) == ['all']
    if simulator == 'two_cubes':  # known without the seconds that a scene takes
        wanted = (tuple(TASKS) if everything else tuple(given)) or PICK_TASKS
        unknown = [name for name in wanted if name not in TASKS]
        if unknown:
            raise VlaPruneError(
                f'task {unknown[0]!r} is unknown', f'choose from {", ".join(TASKS)}'
            )
        return tuple(dict.fromkeys(wanted))
    scene = make_scene(simulator, () if everything else given, render=False)
    try:
        return tuple(dict.fromkeys(scene.task_names))
    finally:
        scene.close()


def plan_jobs(
    options: EvaluateOptions, methods: tuple[Method, ...], done: Iterable[EpisodeKey]
) -> list[Job]:
    """The episodes that are still to be run.

    Task by task, so that a worker opens each scene once; seed by seed within it, so that all
    methods are timed in the same minutes and an interrupted run is a fair comparison.
    """
    by_name, there = {method.name: method for method in methods}, set(done)
    jobs = []
    for key in _keys(options):
        if key not in there:
            filmed = key.seed - options.first_seed < options.videos
            video = video_path(options.out, key) if filmed else None
            jobs.append(Job(by_name[key.method], key, video))
    return jobs


def _keys(options: EvaluateOptions) -> list[EpisodeKey]:
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    return [
        EpisodeKey(method, task, seed)
        for task in options.tasks
        for seed in seeds
        for method in options.methods
    ]


def _recorded(
    outcomes: Iterable[Outcome], store: EpisodeStore
) -> Iterable[tuple[Job, EpisodeResult]]:
    for outcome in outcomes:
        if outcome.result is None:
            raise VlaPruneError(*(outcome.wrong or ('a job gave nothing', 'run it again')))
        job = outcome.job
        store.append(job.method, job.key, outcome.result, outcome.versions)
        yield job, outcome.result


def _evaluation(
    options: EvaluateOptions,
    methods: tuple[Method, ...],
    card: dict[str, Any],
    episodes: dict[EpisodeKey, EpisodeResult],
) -> Evaluation:
    folders = {method.folder for method in methods}
    cards = {str(f): card if f == options.checkpoint else checkpoint_card(f) for f in folders}
    ran = {k: episodes[k] for k in _keys(options) if k in episodes}
    errors = [f'{k.method} {k.task} {k.seed}: {e.error}' for k, e in ran.items() if e.error]
    result = {
        'ok': not errors,
        'untrained': any(c['untrained'] for c in cards.values()),
        'rows': result_rows(ran, options.methods, options.tasks),
        'errors': errors[:_ERRORS_SHOWN],
        'settings': {
            **asdict(options.setting),
            'methods': list(options.methods),
            'tasks': list(options.tasks),
            'episodes': options.episodes,
            'first_seed': options.first_seed,
            'workers': options.workers,
            'ray': options.ray,
        },
        'command': options.command,
        'checkpoints': list(cards.values()),
        'scenes': list(dict.fromkeys(e.scene for e in ran.values() if e.scene)),
        'generated_assets': any(e.generated_assets for e in ran.values()),
        'versions': versions(),
        'machine': machine(),
    }
    return Evaluation(result, ran)
