"""``vla-prune evaluate``: methods times tasks times seeds in closed loop, resumable."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...errors import VlaPruneError
from ...runtime.progress import Progress
from ...sim.scene import make_scene
from ...sim.two_cubes import PICK_TASKS, TASKS, find_tasks
from ..figures import plot_modes, plot_success
from ..machine import checkpoint_card, machine, versions
from ..methods import Method, parse_methods
from ..options import EvaluateOptions
from ..pool import run_jobs
from .episodes import EpisodeKey, EpisodeResult, EpisodeStore
from .tables import EvaluateResult, result_markdown, result_notes, result_rows, result_tables
from .worker import EpisodeWorker, Job, video_path

OnEpisode = Callable[[EpisodeKey, EpisodeResult], None]

_ERRORS_SHOWN = 5


@dataclass(frozen=True)
class Evaluation:
    result: EvaluateResult
    episodes: dict[EpisodeKey, EpisodeResult]


def run_evaluate(options: EvaluateOptions, on_episode: OnEpisode) -> Evaluation:
    """Run what the folder lacks. What raised counts as failed; the next run repeats it.

    :param on_episode: called with the episodes that are there already, then with each that ends.
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
            for outcome in outcomes:
                if outcome.result is None:
                    raise VlaPruneError(*outcome.wrong)
                job, result = outcome.job, outcome.result
                store.append(job.method, job.key, result, outcome.versions)
                done[job.key] = result
                on_episode(job.key, result)
    return _evaluation(options, methods, card, done)


def stored(options: EvaluateOptions) -> Evaluation:
    methods = parse_methods(options.methods, options.checkpoint)
    card = checkpoint_card(options.checkpoint)
    with EpisodeStore(options.out, options.setting, versions()) as store:
        there = store.episodes(methods, card['fingerprint'])
    return _evaluation(options, methods, card, there)


def task_names(simulator: str, given: Sequence[str]) -> tuple[str, ...]:
    """``given``: ``['all']`` for every task, empty for the simulator's own choice."""
    everything = list(given) == ['all']
    if simulator == 'two_cubes':  # known without the seconds that a scene takes
        wanted = (tuple(TASKS) if everything else tuple(given)) or PICK_TASKS
        return tuple(dict.fromkeys(task.name for task in find_tasks(wanted)))
    with closing(make_scene(simulator, () if everything else given, render=False)) as scene:
        return tuple(dict.fromkeys(scene.task_names))


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


def _evaluation(
    options: EvaluateOptions,
    methods: tuple[Method, ...],
    card: dict[str, Any],
    episodes: dict[EpisodeKey, EpisodeResult],
) -> Evaluation:
    folders = dict.fromkeys(method.folder for method in methods)
    cards = [card if f == options.checkpoint else checkpoint_card(f) for f in folders]
    ran = {k: episodes[k] for k in _keys(options) if k in episodes}
    errors = [f'{k.method} {k.task} {k.seed}: {e.error}' for k, e in ran.items() if e.error]
    result = EvaluateResult(
        ok=not errors,
        untrained=any(c['untrained'] for c in cards),
        rows=result_rows(ran, options.methods, options.tasks),
        errors=errors[:_ERRORS_SHOWN],
        settings={
            **asdict(options.setting),
            **{name: list(getattr(options, name)) for name in ('methods', 'tasks')},
            **{n: getattr(options, n) for n in ('episodes', 'first_seed', 'workers', 'ray')},
        },
        command=options.command,
        checkpoints=cards,
        scenes=list(dict.fromkeys(e.scene for e in ran.values() if e.scene)),
        generated_assets=any(e.generated_assets for e in ran.values()),
        versions=versions(),
        machine=machine(),
    )
    return Evaluation(result, ran)


def count_episodes(progress: Progress, options: EvaluateOptions) -> OnEpisode:
    each = len(options.tasks) * options.episodes
    stages = {method: progress.add(method, each) for method in options.methods}
    ended, solved = Counter[str](), Counter[str]()

    def add(key: EpisodeKey, result: EpisodeResult) -> None:
        ended[key.method] += 1
        solved[key.method] += result.success
        counts = f'{solved[key.method]}/{ended[key.method]} solved'
        stages[key.method].update(ended[key.method], counts)
        if result.error:
            progress.say(f'{key.method} {key.task} seed {key.seed}: {result.error}')

    return add


def report_evaluation(evaluation: Evaluation, out: Path, console: Console) -> None:
    result = evaluation.result
    if not result.rows:
        console.print('no episode yet')
        return
    for table in result_tables(result):
        console.print(table)
    for note in result_notes(result):
        console.print(note, markup=False, highlight=False)
    plain = asdict(result)
    (out / 'result.json').write_text(json.dumps(plain, indent=2) + '\n', encoding='utf-8')
    (out / 'result.md').write_text(result_markdown(result.rows, result.command), encoding='utf-8')
    try:
        plot_success(plain, out / 'success.png')
        plot_modes(evaluation.episodes, out / 'modes.png')
        console.print(f'{out}: result.json, result.md, success.png, modes.png', markup=False)
    except VlaPruneError as error:
        console.print(str(error), markup=False)
