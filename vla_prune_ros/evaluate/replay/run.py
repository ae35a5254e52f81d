"""``vla-prune replay``: methods on bags, spread over processes or machines, resumable."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

from ...bags.events import BAG_READER
from ...bags.reader import Bag, find_bags
from ...errors import DataError, ProfileError, VlaPruneError
from ...runtime.session import Observer
from ..machine import checkpoint_card, installed, machine, versions
from ..methods import Method, parse_methods
from ..pool import run_jobs
from .method import ReplayWorker
from .records import Recording, ReplayedQuery
from .results import BagAnswers, BagProblem, Problem, ReplayResult, ResultBuilder
from .settings import ReplaySetting
from .store import ReplayJob, ReplayOutcome, ReplayStore, ScanWorker, bag_key, bag_name, method_key
from .thumbnails import thumbnails


def check_replay(setting: ReplaySetting, methods: Iterable[Method]) -> None:
    """Check all but bags, device and dtype: a long replay fails in its first seconds or not.

    :raises VlaPruneError: what of setting, methods and checkpoints is not usable.
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
    :param methods: names; ``'dense'`` is what the others are compared with.
    :param workers: processes, or actors with ``ray``.
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


class Watch(Protocol):
    def reading(self, bags: int) -> None: ...

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None: ...

    def begin(self, jobs: Sequence[tuple[ReplayJob, int]]) -> None:
        """:param jobs: methods that run on bags, each with so many queries."""

    def ended(self, job: ReplayJob) -> None: ...


@dataclass(frozen=True, eq=False)
class ReplayRun:
    result: ReplayResult
    bags: tuple[BagAnswers, ...]


def run_replay(options: ReplayOptions, watch: Watch) -> ReplayRun:
    """Replay what the folder does not hold yet, and give the result of all.

    A bag that cannot be read is a problem in the result; the others are replayed.

    :raises VlaPruneError: an option, a method or the checkpoint is not usable.
    :raises OSError: the folder for results cannot be written.
    """
    setting = options.setting
    methods = parse_methods(options.methods, options.checkpoint)
    check_replay(setting, methods)
    names = {'rosbags': installed(('rosbags',)).get('rosbags', ''), **versions()}
    paths = list(dict.fromkeys(p for given in options.bags for p in find_bags(given)))
    if not paths:
        raise DataError(
            f'no bags at {", ".join(map(str, options.bags))}', 'give a bag, or a folder with some'
        )
    options.out.mkdir(parents=True, exist_ok=True)
    watch.reading(len(paths))
    scans = {o.job.bag: o for o in _scan(options, paths, names, watch)}
    jobs = [
        ReplayJob(path, scans[path].job.folder, method_key(scans[path].job.key, method), method)
        for path in paths
        if (found := scans[path].recording) is not None and found.instants
        for method in methods
    ]
    watch.begin([(job, len(scans[job.bag].recording.instants)) for job in jobs])
    answers: dict[tuple[Path, str], tuple[ReplayedQuery, ...]] = {}
    running = run_jobs(ReplayWorker, jobs, setting, options.workers, options.ray)
    with closing(running) as outcomes:
        for outcome in outcomes:
            if outcome.answers is None:
                raise VlaPruneError(*(outcome.wrong or ('a job gave nothing', 'run it again')))
            stored = ReplayStore(outcome.job.folder).answers(outcome.job.key)
            if stored.done() is None:  # it ran on another machine
                stored.begin(outcome.answers)
                stored.end()
            answers[outcome.job.bag, outcome.job.method.name] = outcome.answers
            watch.ended(outcome.job)
    bags = tuple(_with_thumbnails(_bag(scans[p], methods, answers), setting) for p in paths)
    return ReplayRun(_result(options, methods, bags, names), bags)


def _scan(
    options: ReplayOptions, paths: Iterable[Path], names: dict[str, str], watch: Watch
) -> Iterator[ReplayOutcome]:
    jobs, gone = [], []
    for path in paths:
        folder = options.out / 'bags' / bag_name(path)
        try:
            jobs.append(ReplayJob(path, folder, bag_key(path, options.setting, names)))
        except OSError as error:
            wrong = f'bag {path} cannot be read ({error.strerror})', 'check the path'
            gone.append(ReplayOutcome(ReplayJob(path, folder, {}), wrong=wrong))
    running = run_jobs(ScanWorker, jobs, options.setting, options.workers, options.ray)
    with closing(running) as outcomes:
        for outcome in chain(gone, outcomes):
            if outcome.recording is not None:  # where it was read on another machine
                ReplayStore(outcome.job.folder).put_recording(outcome.job.key, outcome.recording)
            problem = '; '.join(outcome.wrong or ())
            watch.scanned(outcome.job.folder.name, outcome.recording, problem)
            yield outcome


def _bag(
    scanned: ReplayOutcome,
    methods: Sequence[Method],
    answers: dict[tuple[Path, str], tuple[ReplayedQuery, ...]],
) -> BagAnswers:
    path = scanned.job.bag
    mine = {m.name: answers[path, m.name] for m in methods if (path, m.name) in answers}
    problems = [Problem('unread', '; '.join(scanned.wrong))] if scanned.wrong else []
    for name, queries in mine.items():
        refused = [q.refusal for q in queries if q.refusal]
        if refused:
            text = f'{name}: {len(refused)} of {len(queries)} queries were refused: {refused[0]}'
            problems.append(Problem('refused', text))
    return BagAnswers(
        name=scanned.job.folder.name,
        path=path,
        recording=scanned.recording,
        answers=mine,
        problems=tuple(problems),
    )


def _with_thumbnails(bag: BagAnswers, setting: ReplaySetting) -> BagAnswers:
    if bag.recording is None or not bag.answers:
        return bag
    profile = setting.load_profile()
    try:
        with Bag(bag.path) as opened:
            moments = thumbnails(opened, bag.recording, bag.answers, profile, setting.robot)
    except DataError as error:  # it is on another machine
        missing = Problem('unread', f'no images of it: {error}')
        return replace(bag, problems=(*bag.problems, missing))
    return replace(bag, moments=moments)


def _result(
    options: ReplayOptions,
    methods: Sequence[Method],
    bags: Sequence[BagAnswers],
    names: dict[str, str],
) -> ReplayResult:
    setting, profile = options.setting, options.setting.load_profile()
    dense = next((m.name for m in methods if m.pruning == 'dense'), '')
    builder = ResultBuilder(
        bags,
        methods=[m.name for m in methods],
        dense=dense,
        dt_s=profile.control_period_s,
        chunk=profile.chunk,
    )
    described = builder.bags()
    problems = tuple(BagProblem(b.name, p.code, p.text) for b in described for p in b.problems)
    cards = {
        str(f): checkpoint_card(f) for f in {options.checkpoint, *(m.folder for m in methods)}
    }
    return ReplayResult(
        ok=not problems,
        command=options.command,
        untrained=any(card['untrained'] for card in cards.values()),
        checkpoint=cards[str(options.checkpoint)]['folder'],
        checkpoints={m.name: cards[str(m.folder)] for m in methods},
        settings={
            **asdict(setting),
            'chunk': profile.chunk,
            'control_period_s': profile.control_period_s,
            'workers': options.workers,
            'ray': options.ray,
        },
        machine=machine(),
        versions=names,
        rows=builder.rows(),
        bags=described,
        problems=problems,
    )
