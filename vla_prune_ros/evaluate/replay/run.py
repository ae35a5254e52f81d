"""``vla-prune replay``: methods on bags, spread over processes or machines, resumable."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from ...bags.events import BAG_READER
from ...bags.reader import Bag, find_bags
from ...errors import DataError, ProfileError, VlaPruneError
from ...runtime.progress import Progress
from ...runtime.session import Observer
from ..machine import checkpoint_card, installed, machine, versions
from ..methods import Method, parse_methods
from ..pool import run_jobs
from . import store
from .columns import plural
from .method import ReplayWorker
from .results import BagAnswers, ReplayResult, ResultBuilder
from .scan import ReplaySetting, ScanWorker
from .store import Answers, Recording, ReplayedQuery, ReplayJob, ReplayOutcome
from .thumbnails import thumbnails

_EVERY_S = 1.0


class ReplayProgress:
    """Shows what is done while the ``with`` block runs: the answers that workers, perhaps on other
    machines, have written down."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(console)
        self._running: dict[str, tuple[int, Answers]] | None = None  # None: bags are being read
        self._scanned, self._done, self._guess = 0, 0, ''
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> 'ReplayProgress':
        self._progress.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()
        self._count()
        self._progress.__exit__(*error)

    def reading(self, bags: int) -> None:
        self._progress.stage(f'reading {plural(bags, "bag")}', bags)

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None:
        say = self._progress.say
        self._scanned += 1
        self._progress.at(self._scanned)
        if recording is None:
            say(f'{name}: {problem}')
            return
        seconds = 1e-9 * (recording.span_ns[1] - recording.span_ns[0])
        say(f'{name}: {seconds:.1f} s, {plural(len(recording.instants), "query")}')
        named = ', '.join(f'{stream} = {topic}' for stream, topic in recording.topics.items())
        if recording.guessed and named != self._guess:
            self._guess = named
            say(f'  topics, guessed by type and name: {named}')

    def begin(self, jobs: Sequence[tuple[ReplayJob, int]]) -> None:
        """:param jobs: methods that run on bags, each with so many queries."""
        with self._lock:
            self._running = {_name(job): (queries, job.answers) for job, queries in jobs}
            self._progress.stage('queries', sum(queries for _, queries in jobs))

    def ended(self, job: ReplayJob) -> None:
        with self._lock:
            self._done += self._running.pop(_name(job))[0]

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._count()

    def _count(self) -> None:
        with self._lock:
            if self._running is None:
                return
            jobs = self._running.items()
            counts = {n: (min(queries, a.count()), queries) for n, (queries, a) in jobs}
            text = ', '.join(f'{n} {count}/{all_}' for n, (count, all_) in counts.items() if count)
            self._progress.at(self._done + sum(count for count, _ in counts.values()), text)


def _name(job: ReplayJob) -> str:
    return f'{job.folder.name} {job.method.name}'


def check_replay(setting: ReplaySetting, methods: Iterable[Method]) -> None:
    """:raises VlaPruneError: what of setting, methods and checkpoints is not usable; bags, device
    and dtype are not checked.
    """
    from ...engine.load import pruner_target
    from ...model.checkpoint import find_variant, read_size
    from ...pruning.layout import read_trained
    from ...pruning.registry import build_pruner

    profile, robot = setting.load_profile(), setting.robot
    if profile.action_kind != 'delta_pose':
        raise ProfileError(
            f'profile {profile.name!r} commands {profile.action_kind}',
            'vla_policy, and so a replay of it, is for end-effector deltas',
        )
    setting.check()
    Observer(profile, robot, BAG_READER, period_s=setting.period_s)
    robot.motion()
    for method in methods:  # what load_policy finds out before it reads the weights
        size = read_size(method.folder, profile, find_variant(method.folder, profile))
        target = pruner_target(profile, size, read_trained(method.folder))
        build_pruner(method.pruning, target)


@dataclass(frozen=True)
class ReplayOptions:
    """:param bags: bags, or folders with some.
    :param checkpoint: folder of all methods that name none of their own.
    :param command: for the report, how to repeat it.
    """

    bags: tuple[Path, ...]
    checkpoint: Path
    methods: tuple[str, ...]
    out: Path
    setting: ReplaySetting = field(default_factory=ReplaySetting)
    workers: int = 1
    ray: str = ''
    command: str = ''


@dataclass(frozen=True, eq=False)
class ReplayRun:
    result: ReplayResult
    bags: tuple[BagAnswers, ...]


def run_replay(options: ReplayOptions, watch: ReplayProgress) -> ReplayRun:
    """Replay what the folder does not hold yet, and give the result of all.

    A bag that cannot be read is a problem in the result.

    :raises VlaPruneError: an option, a method or the checkpoint is not usable.
    :raises OSError: the folder for results cannot be written.
    """
    methods = parse_methods(options.methods, options.checkpoint)
    check_replay(options.setting, methods)
    names = {'rosbags': installed(('rosbags',)).get('rosbags', ''), **versions()}
    paths = list(dict.fromkeys(p for given in options.bags for p in find_bags(given)))
    if not paths:
        raise DataError(
            f'no bags at {", ".join(map(str, options.bags))}', 'give a bag, or a folder with some'
        )
    options.out.mkdir(parents=True, exist_ok=True)
    watch.reading(len(paths))
    scans = _scan(options, paths, names, watch)
    answers = _replay(options, [scans[path] for path in paths], methods, watch)
    bags = tuple(_bag(scans[path], answers[path], options.setting) for path in paths)
    return ReplayRun(_result(options, methods, bags, names), bags)


def _scan(
    options: ReplayOptions, paths: Sequence[Path], names: dict[str, str], watch: ReplayProgress
) -> dict[Path, ReplayOutcome]:
    jobs, missing = [], []
    for path in paths:
        folder = options.out / 'bags' / store.bag_name(path)
        try:
            jobs.append(ReplayJob(path, folder, store.bag_key(path, options.setting, names)))
        except OSError as error:
            wrong = f'bag {path} cannot be read ({error.strerror})', 'check the path'
            missing.append(ReplayOutcome(ReplayJob(path, folder, {}), wrong=wrong))
    found = {}
    running = run_jobs(ScanWorker, jobs, options.setting, options.workers, options.ray)
    with closing(running) as outcomes:
        for outcome in chain(missing, outcomes):
            job, recording = outcome.job, outcome.recording
            if recording is not None:  # where it was read on another machine
                store.save_recording(job.folder, job.key, recording)
            watch.scanned(job.folder.name, recording, '; '.join(outcome.wrong or ()))
            found[job.bag] = outcome
    return found


def _replay(
    options: ReplayOptions,
    scans: Sequence[ReplayOutcome],
    methods: Sequence[Method],
    watch: ReplayProgress,
) -> dict[Path, dict[str, Sequence[ReplayedQuery]]]:
    """Bag -> method, in the order in which they were named -> answers."""
    queries = [(s.job, len(s.recording.instants) if s.recording else 0) for s in scans]
    found = {bag.bag: {m.name: () for m in methods if count} for bag, count in queries}
    jobs = [(bag.of(method), count) for bag, count in queries for method in methods if count]
    watch.begin(jobs)
    running = run_jobs(
        ReplayWorker, [job for job, _ in jobs], options.setting, options.workers, options.ray
    )
    with closing(running) as outcomes:
        for outcome in outcomes:
            job = outcome.job
            if outcome.wrong is not None:
                raise VlaPruneError(*outcome.wrong)
            if job.answers.done() is None:  # it ran on another machine
                job.answers.begin(outcome.answers)
                job.answers.end()
            found[job.bag][job.method.name] = outcome.answers
            watch.ended(job)
    return found


def _bag(
    scanned: ReplayOutcome, answers: Mapping[str, Sequence[ReplayedQuery]], setting: ReplaySetting
) -> BagAnswers:
    path, recording = scanned.job.bag, scanned.recording
    problems = [('unread', '; '.join(scanned.wrong))] if scanned.wrong else []
    for name, queries in answers.items():
        refused = [q.refusal for q in queries if q.refusal]
        if refused:
            text = f'{name}: {len(refused)} of {len(queries)} queries were refused: {refused[0]}'
            problems.append(('refused', text))
    moments = ()
    if answers:
        try:
            with Bag(path) as bag:
                profile, robot = setting.load_profile(), setting.robot
                moments = thumbnails(bag, recording, answers, profile, robot)
        except DataError as error:  # it is on another machine
            problems.append(('unread', f'no images of it: {error}'))
    return BagAnswers(
        name=scanned.job.folder.name,
        path=path,
        recording=recording,
        answers=answers,
        problems=problems,
        moments=moments,
    )


def _result(
    options: ReplayOptions,
    methods: Sequence[Method],
    bags: Sequence[BagAnswers],
    names: dict[str, str],
) -> ReplayResult:
    profile = options.setting.load_profile()
    chunk, dt_s = profile.chunk, profile.control_period_s
    dense = next((m.name for m in methods if m.pruning == 'dense'), '')
    every = [m.name for m in methods]
    builder = ResultBuilder(bags, methods=every, dense=dense, dt_s=dt_s, chunk=chunk)
    described = builder.bags()
    problems = tuple({'bag': b.name, **problem} for b in described for problem in b.problems)
    folders = {options.checkpoint, *(m.folder for m in methods)}
    cards = {folder: checkpoint_card(folder) for folder in folders}
    return ReplayResult(
        ok=not problems,
        command=options.command,
        untrained=any(card['untrained'] for card in cards.values()),
        checkpoint=cards[options.checkpoint]['folder'],
        checkpoints={m.name: cards[m.folder] for m in methods},
        settings={
            **asdict(options.setting),
            'chunk': chunk,
            'control_period_s': dt_s,
            'workers': options.workers,
            'ray': options.ray,
        },
        machine=machine(),
        versions=names,
        rows=builder.rows(),
        bags=described,
        problems=problems,
    )
